"The house rules, each as a test: they read whatever rooms there are, so a new room needs no line here."
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import check
import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = check.rooms()
MODULES = {f.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.'): f for f in sorted((ROOT/'tsmeta').rglob('*.py'))}
SOURCES = {name: f.read_text(encoding='utf-8') for name, f in MODULES.items() if f.stem not in ('__init__', '_modidx')}
NUMBER = {name: r.number for r in ROOMS if (name := f'tsmeta.{r.module}') in SOURCES}
# Modules that gather the rooms stand above them all
TOP, FIRST_TORCH_ROOM = '99', '07'
TORCH = {'torch', 'torchvision', 'fastai', 'tsai', 'accelerate'}


def python(code, cwd=ROOT, *args):
    "Runs code in a fresh interpreter that finds this checkout, and reads its last line as JSON."
    path = f'import sys; sys.path.insert(0, {str(ROOT)!r})\n'
    done = subprocess.run([sys.executable, '-W', 'default', '-c', path + code, *args], cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def imported(tree, module=''):
    "Lists every module that code imports, anywhere in it, by absolute name; `module` is where the code stands."
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(filter(None, ['.'.join(module.split('.')[:-node.level]) if node.level else '', node.module]))
            found += [base, *(f'{base}.{a.name}' for a in node.names)]
        elif isinstance(node, ast.Call) and getattr(node.func, 'attr', getattr(node.func, 'id', '')) in ('import_module', '__import__'):
            found += [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return found


def uphill(tree, module, number):
    "Lists the imports of rooms that do not stand below this one."
    wanted = {m for m in imported(tree, module) if m in SOURCES and m != module}
    return sorted(m for m in wanted if NUMBER.get(m, TOP) >= number)


def test_imports_are_seen_in_every_form():
    code = 'import a.b\nfrom .meta import x\nfrom . import load\ndef f():\n    from tsmeta.plan import Plan\n    import_module("tsmeta.cli")'
    wanted = {'a.b', 'tsmeta.meta', 'tsmeta.load', 'tsmeta.plan', 'tsmeta.cli'}
    assert wanted <= set(imported(ast.parse(code), 'tsmeta.index'))


@pytest.mark.parametrize('module', NUMBER)
def test_modules_import_downhill(module):
    assert not uphill(ast.parse(SOURCES[module]), module, NUMBER[module]), f'{module} (room {NUMBER[module]}) imports rooms that do not stand below it'


@pytest.mark.parametrize('room', ROOMS, ids=lambda r: r.name)
def test_lessons_import_downhill(room):
    code = '\n'.join(re.sub(r'^\s*[%!].*', '', source, flags=re.M) for source in room.code if not source.startswith('%%'))
    assert not uphill(ast.parse(code), f'tsmeta.{room.module}', room.number), f'{room.name} shows rooms that do not stand below it'


@pytest.mark.parametrize('room', ROOMS, ids=lambda r: r.name)
def test_imports_stand_in_cells_of_their_own(room):
    "nbdev runs every cell that imports when it builds the documentation, but none of the lessons around it."
    for source in room.code:
        if source in room.exported or source.startswith(('%', '!')): continue
        tree = ast.parse(source)
        alone = all(isinstance(n, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)) for n in tree.body)
        assert alone or not imported(tree), f'{room.name}: split the cell that begins\n{source[:200]}'


@pytest.mark.parametrize('module', [m for m, n in NUMBER.items() if n < FIRST_TORCH_ROOM])
def test_lower_storey_is_free_of_torch(module):
    named = {m.split('.')[0] for m in imported(ast.parse(SOURCES[module]), module)}
    assert not named & TORCH, f'{module} imports {named & TORCH}; torch enters at room {FIRST_TORCH_ROOM}'
    loaded = python(f'import json, {module}\nprint(json.dumps(sorted(sys.modules.keys() & {TORCH!r})))')
    assert not loaded, f'importing {module} loads {loaded}'


@pytest.mark.parametrize('module', NUMBER)
def test_functions_are_short(module):
    for fn in check.functions(ast.parse(SOURCES[module])):
        where = f'{module}.{fn.name}'
        assert check.body_lines(fn) <= check.MAX_BODY, f'{where} has {check.body_lines(fn)} lines; split it, or give a part of it a name'
        if not check.is_kernel(fn): assert check.own_parameters(fn) <= check.MAX_PARAMETERS, f'{where} has {check.own_parameters(fn)} parameters of its own; put some in one options object'


def test_every_notebook_has_a_page_of_its_own():
    "A page is named like its notebook without the number, so a room called index would take the home page."
    pages = [(f.parent, re.sub(r'^\d+[a-z0-9]*_', '', f.stem)) for f in (ROOT/'nbs').rglob('*.ipynb')]
    twice = {p.as_posix() + '/' + name for p, name in pages if pages.count((p, name)) > 1}
    assert not twice, f'rename a notebook: two make the page {twice}'


def test_every_module_has_its_notebook():
    for module, text in SOURCES.items():
        source = re.search(r'AUTOGENERATED! DO NOT EDIT! File to edit: (\S+?)\.?$', text, re.M)
        if source: assert (MODULES[module].parent/source.group(1)).is_file(), f'{module} is left over from {source.group(1)}'


@pytest.mark.parametrize('path', sorted((ROOT/'nbs').rglob('*.ipynb')), ids=lambda p: p.stem)
def test_title_cell_holds_nothing_but_the_title(path):
    "nbdev turns the first cell into the page's title and drops what else it holds."
    first = json.loads(path.read_text(encoding='utf-8'))['cells'][0]
    extra = [line for line in ''.join(first['source']).splitlines() if line.strip() and not re.match(r'(# |> |- \w+:)', line)]
    assert not extra, f'move to a cell of its own: {extra[0]}'


def test_import_is_quick_and_light():
    code = 'import json, time\nt = time.perf_counter()\nimport tsmeta\nprint(json.dumps([time.perf_counter() - t, "torch" in sys.modules]))'
    runs = [python(code) for _ in range(3)]
    assert not any(torch for _, torch in runs), '`import tsmeta` imports torch'
    assert min(t for t, _ in runs) < 0.3, f'`import tsmeta` takes {min(t for t, _ in runs):.2f} s'


# What an import must leave as it was. Other packages are imported first, so that their own doings do not count.
LOOK = '''
import importlib, json, multiprocessing, os, random, warnings
others, ours = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for name in others:
    try: importlib.import_module(name)
    except ImportError: pass
import fastai.basics, fastai.data.load, numpy, torch.utils.data
from fastai.learner import Learner

def classes():
    homes = ('fastai.', 'fastcore.', 'fasttransform', 'torch.utils.data', 'torch._tensor', 'tsai.')
    mods = [m for n, m in list(sys.modules.items()) if m is not None and n.startswith(homes)]
    found = {c for m in mods for c in list(vars(m).values()) if isinstance(c, type) and c.__module__.startswith(homes)}
    filled_when_read = ('__doc__', '__signature__', '__annotations__')
    return {c: {k: id(v) for k, v in list(vars(c).items()) if k not in filled_when_read} for c in found if c is not Learner}

def state():
    return {'warnings filters': repr(warnings.filters), 'files here': sorted(os.listdir()), 'torch dtype': str(torch.get_default_dtype()),
            'torch device': str(torch.get_default_device()), 'threads': torch.get_num_threads(), 'start method': multiprocessing.get_start_method(True),
            'random': hash(random.getstate()), 'numpy random': repr(numpy.random.get_state()), 'torch random': torch.get_rng_state().tolist(),
            'numpy errors': numpy.geterr(), 'environment': dict(os.environ)}

kept, before = classes(), state()
for name in ours: importlib.import_module(name)
now, after = classes(), state()
changed = [k for k in before if before[k] != after[k]]
changed += [f'{c.__module__}.{c.__name__}.{k}' for c in kept for k in kept[c].keys() | now[c].keys() if kept[c].get(k) != now[c].get(k)]
print(json.dumps(sorted(changed)))
'''


def test_import_changes_nothing(tmp_path):
    others = sorted({m for name, text in SOURCES.items() for m in imported(ast.parse(text), name) if not m.startswith('tsmeta')})
    changed = python(LOOK, tmp_path, json.dumps(others), json.dumps(sorted(SOURCES)))
    assert not changed, f'importing tsmeta changes {", ".join(changed)}'


def tracked():
    "Yields each text file of the repository with its text; pictures stored in notebooks are left out."
    done = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if done.returncode: pytest.skip('not a git checkout')
    for name in filter(None, done.stdout.split('\0')):
        try: text = (ROOT/name).read_text(encoding='utf-8')
        except (UnicodeDecodeError, FileNotFoundError): continue
        yield name, re.sub(r'"image/\w+": (\[[^\]]*\]|".*?")', '', text) if name.endswith('.ipynb') else text


def hits(pattern):
    "Lists `file:line: text` of what a pattern finds in the repository."
    found = []
    for name, text in tracked():
        found += [f'{name}:{text.count(chr(10), 0, m.start()) + 1}: {m.group().strip()}' for m in re.finditer(pattern, text, re.M)]
    return found


def test_no_path_of_a_machine():
    homes = ['work', 'root', 'farm', 'home/[a-z]+', 'Users/[A-Za-z]+', 'tmp/tmp[a-z0-9_]{8}']
    assert not hits(rf'(?<![\w.:/])/(?:{"|".join(homes)})/.*')


def test_no_package_registry():
    hosts = [('pypi', 'org'), ('pythonhosted', 'org'), ('anaconda', 'org'), ('download.pytorch', 'org'), ('npmjs', 'org'), ('registry.npmjs', 'com')]
    options = ['--' + 'index-url', '--' + 'extra-index-url', '--' + 'trusted-host']
    assert not hits('|'.join([*(re.escape('.'.join(h)) for h in hosts), *options]))


def test_nothing_is_left_to_do():
    words = ['TO' + 'DO', 'FIX' + 'ME', 'X' * 3, 'Not' + 'ImplementedError']
    assert not hits(rf'\b(?:{"|".join(words)})\b.*|#\|\s*ev' + r'al:\s*false')


def test_readme_is_in_step():
    pytest.importorskip('nbdev')
    import readme
    assert not readme.out_of_step(readme.build()), 'run `make sync`'

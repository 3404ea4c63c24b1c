"Prints how large each room is, marks those that should be split, and runs the house rules."
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES, MAX_CELLS = 250, 120
MAX_BODY, MAX_PARAMETERS = 25, 8
NUMBERED = re.compile(r'\d+[a-z]?_.*\.ipynb')


class Room:
    "One numbered notebook and the module it exports to: the unit that the house rules speak of."
    def __init__(self, path):
        self.path, self.name, self.number = path, path.stem, path.stem.split('_')[0]
        self.cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        self.code = [''.join(c['source']) for c in self.cells if c['cell_type'] == 'code']
        self.exported = [s for s in self.code if re.search(r'^#\|\s*export[is]?\b', s, re.M)]
        named = [re.search(r'^#\|\s*default_exp\s+(\S+)', s, re.M) for s in self.code]
        self.module = next((m.group(1) for m in named if m), None)

    @property
    def lines(self): return sum(1 for s in self.exported for line in s.splitlines() if line.strip() and not line.startswith('#|'))

    @property
    def mark(self):
        over = [f'{n} {what}' for n, top, what in [(self.lines, MAX_LINES, 'lines'), (len(self.cells), MAX_CELLS, 'cells')] if n > top]
        return f'  <- {" and ".join(over)}: split along an idea' if over else ''


def rooms(): return [Room(f) for f in sorted((ROOT/'nbs').glob('*.ipynb')) if NUMBERED.fullmatch(f.name)]


def functions(tree):
    "Yields every function and method of a module, nested ones too."
    return (n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


def body_lines(fn):
    "Counts the lines of a function's body, its docstring left out."
    body = fn.body[1:] if ast.get_docstring(fn) is not None else fn.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def is_kernel(fn):
    "Says whether numba compiles a function: such a one can take nothing but plain arrays and numbers, one parameter each."
    names = {n.id if isinstance(n, ast.Name) else n.attr for d in fn.decorator_list for n in ast.walk(d) if isinstance(n, (ast.Name, ast.Attribute))}
    return bool(names & {'njit', 'jit', 'compiled'})


def own_parameters(fn):
    "Counts the parameters a function names itself: not `self`, not what comes through `*args` and `**kwargs`."
    names = [a.arg for a in fn.args.posonlyargs + fn.args.args + fn.args.kwonlyargs]
    return len(names) - (names[:1] in (['self'], ['cls']))


def size_table(found):
    "Lays out one line per room: exported lines (blank ones not counted), cells, and its longest function."
    rows = [f'{"room":<20} {"lines":>6} {"cells":>6} {"longest":>8}']
    for room in found:
        longest = max((body_lines(fn) for s in room.exported for fn in functions(ast.parse(s))), default=0)
        rows.append(f'{room.name:<20} {room.lines:>6} {len(room.cells):>6} {longest:>8}{room.mark}')
    total = f'{"total":<20} {sum(r.lines for r in found):>6} {sum(len(r.cells) for r in found):>6}'
    return '\n'.join([*rows, total, f'at most            {MAX_LINES:>7} {MAX_CELLS:>6} {MAX_BODY:>8}'])


def main():
    print(size_table(rooms()), end='\n\n', flush=True)
    sys.exit(subprocess.run([sys.executable, '-m', 'pytest', '-q', 'tests/test_house.py'], cwd=ROOT).returncode)


if __name__ == '__main__': main()

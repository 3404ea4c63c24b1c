"Prints the size of each module and the measures of the whole tree beside their aims, and runs the house rules."
import ast
import subprocess
import sys
from collections import defaultdict

from layout import ROOT

MAX_BODY, MAX_PARAMETERS, MAX_WIDTH = 25, 8, 120
# The aims of the house style; `make check` prints the tree's own figures beside them
AIMS = {
    'modules': 75, 'longest import path': 8, 'import cycles': 0, 'AST nodes': 215_000, 'AST nodes per simple statement': 12.7,
    'statements of over 40 nodes, per 1,000': 31, 'walrus and conditional expressions, per 1,000': 50, 'getattr/hasattr, per 1,000': 9,
    'base classes, at most': 2, 'attributes set on self, at most': 12, 'private attributes of other modules': 0, 'widest line': MAX_WIDTH,
}


def sources():
    "Return the text of every module by its absolute name; `__init__` and the index that nbdev makes are left out."
    files = [f for f in sorted((ROOT/'tsmeta').rglob('*.py')) if f.stem not in ('__init__', '_modidx')]
    return {'.'.join(f.relative_to(ROOT).with_suffix('').parts): f.read_text(encoding='utf-8') for f in files}


def functions(tree):
    "Yield every function and method of a module, nested ones too."
    return (n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


def body_lines(fn):
    "Return the number of lines of a function's body, its docstring left out."
    body = fn.body[1:] if ast.get_docstring(fn) is not None else fn.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def is_kernel(fn):
    "Return whether numba compiles a function: such a one takes plain arrays and numbers only, one parameter each."
    nodes = [n for d in fn.decorator_list for n in ast.walk(d)]
    names = {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    return bool(names & {'njit', 'jit', 'compiled'})


def own_parameters(fn):
    "Return how many parameters a function names itself: not `self`, not what comes through `*args` and `**kwargs`."
    names = [a.arg for a in fn.args.posonlyargs + fn.args.args + fn.args.kwonlyargs]
    return len(names) - (names[:1] in (['self'], ['cls']))


def imported(tree, module=''):
    "Return every module that code imports, anywhere in it, by absolute name; `module` is where the code stands."
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = '.'.join(module.split('.')[:-node.level]) if node.level else ''
            base = '.'.join(filter(None, [above, node.module]))
            found += [base, *(f'{base}.{a.name}' for a in node.names)]
        elif isinstance(node, ast.Call) and getattr(node.func, 'attr', getattr(node.func, 'id', '')) in ('import_module', '__import__'):
            found += [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return found


def depths(graph):
    "Return the length of the longest import path down from each module, and the modules found on a cycle."
    known, cycles = {}, set()
    def depth(name, path):
        if name in path:
            cycles.add(name)
            return 0
        if name not in known:
            known[name] = 1 + max((depth(m, (*path, name)) for m in graph[name]), default=0)
        return known[name]
    for name in graph: depth(name, ())
    return known, cycles


def is_private(name): return name.startswith('_') and not name.startswith('__')


def private_names(tree):
    "Return the private functions, classes and attributes that a module defines."
    defs = {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    attributes = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    return {n for n in defs | attributes if is_private(n)}


def private_reach(trees):
    "Return `module: attribute` for each private attribute read from an object of another module."
    homes = defaultdict(set)
    for module, tree in trees.items():
        for name in private_names(tree): homes[name].add(module)
    found = []
    for module, tree in trees.items():
        for n in ast.walk(tree):
            if not isinstance(n, ast.Attribute) or not is_private(n.attr): continue
            own = isinstance(n.value, ast.Name) and n.value.id in ('self', 'cls')
            if not own and homes[n.attr] and module not in homes[n.attr]: found.append(f'{module}: {n.attr}')
    return found


def attributes_set(cls):
    "Return how many attributes the code of a class sets on `self`."
    stored = [n for n in ast.walk(cls) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    return len({n.attr for n in stored if isinstance(n.value, ast.Name) and n.value.id == 'self'})


def statements(trees):
    "Return the number of AST nodes of each simple statement."
    return [sum(1 for _ in ast.walk(n)) for t in trees.values() for n in ast.walk(t) if isinstance(n, ast.stmt) and not hasattr(n, 'body')]


def is_probe(node): return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ('getattr', 'hasattr')


def measures(texts):
    "Return the figures named in `AIMS` for a tree, given as module → text."
    trees = {m: ast.parse(t) for m, t in texts.items()}
    nodes = [n for t in trees.values() for n in ast.walk(t)]
    classes = [n for n in nodes if isinstance(n, ast.ClassDef)]
    sizes = statements(trees)
    known, cycles = depths({m: {i for i in imported(t, m) if i in trees and i != m} for m, t in trees.items()})
    lines = [line for t in texts.values() for line in t.splitlines() if line.strip() and not line.strip().startswith('#')]
    def per_1000(found): return round(1000*sum(found)/len(sizes), 1)
    return {
        'modules': len(trees), 'longest import path': max(known.values()), 'import cycles': len(cycles), 'AST nodes': len(nodes),
        'AST nodes per simple statement': round(sum(sizes)/len(sizes), 1),
        'statements of over 40 nodes, per 1,000': per_1000(n > 40 for n in sizes),
        'walrus and conditional expressions, per 1,000': per_1000(isinstance(n, (ast.NamedExpr, ast.IfExp)) for n in nodes),
        'getattr/hasattr, per 1,000': per_1000(map(is_probe, nodes)),
        'base classes, at most': max(len(c.bases) for c in classes),
        'attributes set on self, at most': max(map(attributes_set, classes)),
        'private attributes of other modules': len(private_reach(trees)),
        'widest line': max(map(len, lines)),
    }


def size_table(texts):
    "Return one line per module: lines of code, AST nodes per simple statement, and its longest function."
    rows = [f'{"module":<28} {"lines":>6} {"nodes":>6} {"longest":>8}']
    for module, text in texts.items():
        tree = ast.parse(text)
        lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith('#')]
        sizes = statements({module: tree}) or [0]
        longest = max(map(body_lines, functions(tree)), default=0)
        rows.append(f'{module.removeprefix("tsmeta."):<28} {len(lines):>6} {sum(sizes)/len(sizes):>6.1f} {longest:>8}')
    return '\n'.join(rows)


def aim_table(found):
    "Return one line per measure: this tree's figure, the aim, and a mark where it is missed."
    rows = [f'{"measure":<48} {"tree":>8} {"aim":>8}']
    return '\n'.join(rows + [f'{name:<48} {found[name]:>8} {aim:>8}{"  <-" if found[name] > aim else ""}' for name, aim in AIMS.items()])


def main():
    texts = sources()
    print(size_table(texts), aim_table(measures(texts)), sep='\n\n', end='\n\n', flush=True)
    sys.exit(subprocess.run([sys.executable, '-m', 'pytest', '-q', 'tests/test_house.py'], cwd=ROOT).returncode)


if __name__ == '__main__': main()

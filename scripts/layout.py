"The packages of the library and the order in which people read them; what the other scripts know about the tree."
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
# Packages from the ground up, each with the title of its section in the sidebar. Packages of one level do not import each other.
PACKAGES = {
    'sources': 'Sources', 'splits': 'Splits', 'batches': 'Batches', 'store': 'Stores and labels', 'data': 'Metadatasets',
    'load': 'Loaders and streams', 'train': 'Training', 'cli': 'Command line',
}
LEVEL = {'compiled': -1, 'sources': 0, 'splits': 0, 'batches': 1, 'store': 1, 'data': 2, 'load': 3, 'train': 4, 'cli': 5}
# Modules that belong to no package stand above them all; only `compiled` stands below
TOP = 6
NO_TORCH = ('sources', 'splits', 'batches', 'store')
TORCH = {'torch', 'torchvision', 'fastai', 'tsai', 'accelerate'}
# Pages in the order in which somebody new would read them; any other comes after these, by name
TUTORIALS = [
    'from_recordings_to_answers', 'which_split', 'from_the_command_line', 'order_mix_resume', 'ten_thousand_datasets',
    'several_processes', 'eight_benchmarks', 'twelve_datasets', 'forecasting', 'pretrain_then_finetune',
    'coming_from_tfds', 'coming_from_edflow', 'coming_from_trw',
]
MODULES = {
    'sources': ['base', 'recordings', 'channels', 'files', 'adapt', 'targets', 'align', 'policies'],
    'formats': ['edf', 'brainvision', 'wfdb', 'wav'],
    'splits': ['index', 'spec', 'splits', 'splitters', 'leakage'],
    'batches': ['permutation', 'plan', 'mix', 'kernel', 'gather'],
    'store': ['disk', 'manifest', 'store', 'pack', 'remote', 'labels', 'split_file'],
    'data': ['codec', 'ids', 'schema', 'dataset', 'hooks', 'datasets', 'open', 'views', 'show', 'transforms'],
    'load': ['loader', 'reading', 'sampling', 'workers', 'distributed', 'feed', 'stages', 'stream', 'stream_loader'],
    'train': ['callbacks', 'metrics', 'mixture', 'resume', 'predict', 'export', 'plots'],
    'cli': ['options', 'data', 'model', 'run', 'main', 'demo'],
}


def notebooks():
    "Return the paths of all notebooks, those in folders included; copies made by editors are left out."
    found = NBS.rglob('*.ipynb')
    return sorted(f for f in found if not any(p.startswith(('.', '_')) for p in f.relative_to(NBS).parts))


def place(path):
    "Return the sort key of a page within its folder."
    order = ['00_init', *MODULES.get(path.parent.name, []), *TUTORIALS]
    return order.index(path.stem) if path.stem in order else len(order), path.stem


def pages(folder):
    "Return the notebooks of a folder in reading order, as paths below nbs/."
    found = [f for f in notebooks() if f.parent in (NBS/folder, NBS/folder/'formats') and f != NBS/'index.ipynb']
    return [f.relative_to(NBS).as_posix() for f in sorted(found, key=lambda f: (f.parent != NBS/folder, place(f)))]


class Notebook:
    "A notebook that exports a module, or a page without one (`module` is `None`)."
    def __init__(self, path):
        self.path, self.name = path, path.relative_to(NBS).with_suffix('').as_posix()
        self.cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        self.code = [''.join(c['source']) for c in self.cells if c['cell_type'] == 'code']
        self.exported = [s for s in self.code if re.search(r'^#\|\s*export[is]?\b', s, re.M)]
        named = [re.search(r'^#\|\s*default_exp\s+(\S+)', s, re.M) for s in self.code]
        self.module = next((f'tsmeta.{m.group(1)}' for m in named if m), None)


def level(module):
    "Return the level of a module by its absolute name: it may import its own package and those of lower levels."
    parts = module.split('.')
    return LEVEL.get(parts[1], TOP) if len(parts) > 1 else TOP


def package(module):
    "Return the package of a module by its absolute name; '' for one that belongs to none."
    parts = module.split('.')
    return parts[1] if len(parts) > 1 and parts[1] in PACKAGES else ''

"Writes the site's settings beside the notebooks: nbdev.yml from pyproject.toml, and sidebar.yml with home, tutorials, then one page per room."
import os
from pathlib import Path

import yaml
from nbdev.quarto import IndentDumper, refresh_quarto_yml

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
# Rooms from this number on stand under this heading
SECTIONS = [('00', 'Datasets and files'), ('01', 'Index and splits'), ('03', 'Stores, labels, views'), ('04', 'Order and gathering'),
            ('06', 'Background streams'), ('07', 'Metadatasets'), ('08', 'Loaders'), ('09', 'Callbacks'), ('10', 'Learners'), ('11', 'Command line')]
# Tutorials in the order in which somebody new would read them; any other comes after these
TUTORIALS = ['from_recordings_to_answers', 'which_split', 'from_the_command_line', 'order_mix_resume', 'ten_thousand_datasets', 'several_processes', 'eight_benchmarks',
             'twelve_datasets', 'forecasting', 'pretrain_then_finetune', 'coming_from_tfds', 'coming_from_edflow', 'coming_from_trw']


def place(page):
    "Says where a page stands: rooms by number, tutorials as listed."
    name = Path(page).stem
    return TUTORIALS.index(name) if name in TUTORIALS else len(TUTORIALS), page


def pages(folder):
    "Lists the notebooks of a folder in reading order, as paths below nbs/."
    found = (f.relative_to(NBS).as_posix() for f in folder.glob('*.ipynb') if not f.name.startswith(('.', '_')) and f.name != 'index.ipynb')
    return sorted(found, key=place)


def sidebar():
    "Arranges every notebook for the reader: home, the tutorials, the rooms by number under the headings of what they are about."
    ends = [first for first, _ in SECTIONS[1:]] + ['99']
    rooms = [(title, [p for p in pages(NBS) if first <= p < end]) for (first, title), end in zip(SECTIONS, ends)]
    sections = [('Tutorials', pages(NBS/'tutorials')), *rooms]
    return [{'text': 'Home', 'href': 'index.ipynb'}] + [{'section': title, 'contents': found} for title, found in sections if found]


def write():
    "Writes both files where they differ from what is there."
    os.chdir(ROOT)
    refresh_quarto_yml()
    text = yaml.dump({'website': {'sidebar': {'contents': sidebar()}}}, Dumper=IndentDumper, sort_keys=False)
    path = NBS/'sidebar.yml'
    if not path.exists() or path.read_text(encoding='utf-8') != text: path.write_text(text, encoding='utf-8')

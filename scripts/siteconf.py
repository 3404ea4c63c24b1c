"Writes the site's settings beside the notebooks: nbdev.yml from pyproject.toml, and sidebar.yml with home, tutorials, then one page per room."
import os
from pathlib import Path

import yaml
from nbdev.quarto import IndentDumper, refresh_quarto_yml

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'


def pages(folder):
    "Lists the notebooks of a folder in reading order, as paths below nbs/."
    return sorted(f.relative_to(NBS).as_posix() for f in folder.glob('*.ipynb') if not f.name.startswith(('.', '_')) and f.name != 'index.ipynb')


def sidebar():
    "Arranges every notebook for the reader: home, the tutorials, the rooms by number."
    sections = [('Tutorials', pages(NBS/'tutorials')), ('API, room by room', pages(NBS))]
    return [{'text': 'Home', 'href': 'index.ipynb'}] + [{'section': title, 'contents': found} for title, found in sections if found]


def write():
    "Writes both files where they differ from what is there."
    os.chdir(ROOT)
    refresh_quarto_yml()
    text = yaml.dump({'website': {'sidebar': {'contents': sidebar()}}}, Dumper=IndentDumper, sort_keys=False)
    path = NBS/'sidebar.yml'
    if not path.exists() or path.read_text(encoding='utf-8') != text: path.write_text(text, encoding='utf-8')

"Writes the site's settings beside the notebooks: nbdev.yml from pyproject.toml, and sidebar.yml with home, tutorials, then one section per package."
import os

import yaml
from nbdev.quarto import IndentDumper, refresh_quarto_yml

from layout import NBS, PACKAGES, ROOT, pages


def sidebar():
    "Return the contents of the sidebar: home, the tutorials, the packages from the ground up, then what stands above them."
    sections = [('Tutorials', pages('tutorials')), *((title, pages(name)) for name, title in PACKAGES.items()), ('Everything', pages('.'))]
    return [{'text': 'Home', 'href': 'index.ipynb'}] + [{'section': title, 'contents': found} for title, found in sections if found]


def write():
    "Write both files where they differ from what is there."
    os.chdir(ROOT)
    refresh_quarto_yml()
    text = yaml.dump({'website': {'sidebar': {'contents': sidebar()}}}, Dumper=IndentDumper, sort_keys=False)
    path = NBS/'sidebar.yml'
    if not path.exists() or path.read_text(encoding='utf-8') != text: path.write_text(text, encoding='utf-8')

"Builds the documentation site into _docs from the notebooks, without Quarto, and checks every link between its pages."
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path
from urllib.parse import unquote, urlsplit

import siteconf
import yaml
from fastcore.nbio import read_nb, write_nb
from nbdev.config import get_config, nbpath2html
from nbdev.serve import proc_nbs
from readme import Markdown, join

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r'(\]\(\s*<?)([^()<>\s]+)')
LINE = re.compile(r'\[source\]\([^)]*#L(\d+)')


class Stage:
    "A copy of nbdev's processed notebooks where each one has the name of its page, and every link says so."
    def __init__(self, folder, site):
        self.folder, self.site = Path(folder), site.rstrip('/') + '/'
        self.names = {nb: nb.with_name(Path(nbpath2html(nb)).stem + '.ipynb') for nb in (f.relative_to(folder) for f in self.folder.rglob('*.ipynb'))}

    def prepare(self):
        "Renames the notebooks, rewrites what names them (links, sidebar), and leaves out the settings that only Quarto reads."
        for old, new in self.names.items():
            nb = read_nb(self.folder/old)
            for cell in nb.cells: self.cell(cell, old.parent)
            nb.cells = in_order(nb.cells)
            (self.folder/old).unlink()
            write_nb(nb, self.folder/new)
        names = {old.as_posix(): new.as_posix() for old, new in self.names.items()}
        self.edit('sidebar.yml', lambda text: re.sub(r'\S+\.ipynb', lambda m: names.get(m.group(), m.group()), text))
        for name in ('_quarto.yml', 'nbdev.yml'): self.edit(name, self.settings)

    def write_markdown(self, site):
        "Puts a markdown twin beside each page, where the docstrings of the modules say it is."
        for page in self.names.values():
            text = Markdown(read_nb(self.folder/page), self.site, '.', page.parent.as_posix(), f'{page.stem}_files')
            files = {f'{page.stem}.html.md': text.text.encode(), **text.pictures}
            for name, data in files.items():
                (site/page.parent/name).parent.mkdir(exist_ok=True)
                (site/page.parent/name).write_bytes(data)

    def edit(self, name, change):
        path = self.folder/name
        path.write_text(change(path.read_text(encoding='utf-8')), encoding='utf-8')

    def settings(self, text):
        "Leaves out the markdown twins, which smalldocs does not make, and says the width of the text in smalldocs' word."
        cfg = yaml.safe_load(text)
        cfg.pop('format-links', None)
        html = cfg.get('format', {}).get('html')
        if html:
            drop = {'keep-md', 'grid'}
            cfg['format'] = {'html': {k: v for k, v in html.items() if k not in drop} | {'max-width': html['grid']['body-width']}}
        return yaml.dump(cfg, sort_keys=False)

    def cell(self, cell, folder):
        def link(m): return m.group(1) + self.link(m.group(2), folder)
        if cell.cell_type == 'raw': cell.source = re.sub(r'^output-file:.*\n', '', join(cell.source), flags=re.M)
        if cell.cell_type == 'markdown': cell.source = LINK.sub(link, join(cell.source))
        for out in cell.get('outputs') or []:
            data = out.get('data') or {}
            # A class that a notebook defines is known to it as its own, and to everybody else by its name alone
            text = join(data.get('text/markdown')).replace('__main__.', '')
            # Unescaped, the underscores of a special method would make its name bold, and the link to it a dead one
            shown = re.sub(r'^(#+ \S+)$', lambda m: m.group(1).replace('__', r'\_\_'), text, flags=re.M)
            if shown: data['text/markdown'] = LINK.sub(link, shown)

    def link(self, url, folder):
        "Points a link inside the site at its page in this build: symbols are linked by full address, notebooks by file name."
        if url.startswith(self.site): return os.path.relpath(url[len(self.site):], folder)
        parts = urlsplit(url)
        if parts.scheme or not parts.path.endswith('.ipynb'): return url
        new = self.names.get(Path(os.path.normpath(folder/parts.path)))
        return parts._replace(path=os.path.relpath(new, folder)).geturl() if new else url


def line(cell):
    "The line of the module that a signature stands for; `None` for any other cell."
    shown = [m for out in cell.get('outputs') or [] if (m := LINE.search(join((out.get('data') or {}).get('text/markdown'))))]
    return int(shown[0].group(1)) if shown else None


def in_order(cells):
    "Puts neighbouring signatures in the order of the module: nbdev shows those of one cell last to first."
    return [c for _, run in groupby(cells, lambda c: line(c) is not None) for c in sorted(run, key=lambda c: line(c) or 0)]


class Page(HTMLParser):
    "Collects what a page links to, and the anchors it offers."
    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = set(), {'', 'top'}
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[k] for k in ('id', 'name') if attrs.get(k)}
        self.links |= {attrs[k] for k in ('href', 'src') if attrs.get(k)}


def broken(site):
    "Lists each link of the site that leads to no file, or to no anchor of its page."
    pages, found = {f: Page(f) for f in sorted(site.rglob('*.html'))}, []
    for path, page in pages.items():
        for url in sorted(page.links):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc: continue
            goal = (path.parent/unquote(parts.path)).resolve() if parts.path else path
            if goal.is_dir(): goal /= 'index.html'
            why = 'no such page' if not goal.is_file() else 'no such anchor' if goal in pages and unquote(parts.fragment) not in pages[goal].anchors else ''
            if why: found.append(f'{path.relative_to(site)}: {url} ({why})')
    return len(pages), found


def render(site):
    "Stages and renders the notebooks, and puts the result where the site belongs."
    siteconf.write()
    processed = proc_nbs()
    with tempfile.TemporaryDirectory() as tmp:
        stage = Stage(shutil.copytree(processed, Path(tmp)/'site'), get_config().doc_url)
        stage.prepare()
        done = subprocess.run([Path(sys.executable).with_name('smalldocs'), 'render', '--quiet', '--strict', stage.folder])
        if done.returncode: sys.exit('smalldocs could not render the site without a warning; see above.')
        shutil.rmtree(site, ignore_errors=True)
        shutil.move(stage.folder/get_config().doc_path.name, site)
        stage.write_markdown(site)


def main():
    os.chdir(ROOT)
    site = get_config().doc_path.resolve()
    render(site)
    n, found = broken(site)
    if found: sys.exit('\n'.join([f'{len(found)} broken links in {n} pages:', *(f'  {f}' for f in found)]))
    print(f'{n} pages in {site.relative_to(ROOT)}, every link checked. Open {site.relative_to(ROOT)}/index.html.')


if __name__ == '__main__': main()

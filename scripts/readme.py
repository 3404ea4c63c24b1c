"Writes README.md and the pictures it shows from nbs/index.ipynb; with `--check`, only says whether they are in step."
import argparse
import base64
import difflib
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from fastcore.nbio import read_nb
from nbdev.config import get_config
from nbdev.processors import FilterDefaults
from nbdev.readme_filter import doc_link

ROOT = Path(__file__).resolve().parent.parent
PICTURES = 'index_files'  # the folder, beside README.md, of pictures that are stored in the notebook
SUFFIX = {'image/png': 'png', 'image/jpeg': 'jpg', 'image/gif': 'gif', 'image/svg+xml': 'svg'}
ALERTS = {'note': 'NOTE', 'tip': 'TIP', 'important': 'IMPORTANT', 'warning': 'WARNING', 'caution': 'CAUTION'}
FENCED = re.compile(r'^(?P<fence> {0,3}(?:`{3,}|~{3,})).*?^(?P=fence)[`~]*[ \t]*$\n?', re.M | re.S)
INLINE = re.compile(r'(`+)(?:(?!\1).)+?\1')


def join(text): return ''.join(text) if isinstance(text, list) else text or ''


class Tables(HTMLParser):
    "Collects the rows of an HTML table, and the text that stands outside of it."
    def __init__(self):
        super().__init__()
        self.rows, self.outside, self.heads, self.in_head, self.cell, self.skip = [], [], 0, False, None, False

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == 'style': self.skip = True
        elif tag == 'thead': self.in_head = True
        elif tag == 'tr': self.rows.append([])
        elif tag in ('td', 'th') and self.rows: self.cell, self.span = [], int(attrs.get('colspan') or 1)
        elif tag == 'br' and self.cell is not None: self.cell.append(' ')

    def handle_endtag(self, tag):
        if tag == 'style': self.skip = False
        elif tag == 'thead': self.heads, self.in_head = len(self.rows), False
        elif tag in ('td', 'th') and self.cell is not None:
            text = ' '.join(''.join(self.cell).split())
            self.rows[-1] += [text] + [text if self.in_head else ''] * (self.span-1)
            self.cell = None

    def handle_data(self, data):
        if self.skip: return
        if self.cell is not None: self.cell.append(data)
        elif data.strip(): self.outside.append(data.strip())


def is_number(text): return re.fullmatch(r'[-+]?[\d,]*\.?\d+(e[-+]?\d+)?\s?%?|nan|NaN|', text) is not None


def heading(lines):
    "Joins the heading lines of a table into one; of pandas' extra line, which names only the index, the names win."
    *upper, last = lines
    names_only = upper and not all(last)
    return [b if b and names_only else ' '.join(filter(None, [*above, b])) for *above, b in zip(*lines)]


def table_md(html):
    "Turns an HTML table into a markdown table; several heading lines become one."
    found = Tables()
    found.feed(html)
    found.close()
    if not found.rows: return '\n\n'.join(found.outside)
    width = max(map(len, found.rows))
    # A cell that a rowspan covers is missing from the left of its line
    rows = [[''] * (width-len(row)) + [re.sub(r'([|<*`\\])', r'\\\1', c) for c in row] for row in found.rows]
    heads = max(found.heads, 1)
    head, body = heading(rows[:heads]), rows[heads:]
    sides = ['--:' if body and all(is_number(r[i]) for r in body) and any(r[i] for r in body) else '---' for i in range(width)]
    lines = ['| ' + ' | '.join(row) + ' |' for row in [head, sides, *body]]
    return '\n\n'.join(['\n'.join(lines), *found.outside])


def block(text, lang=''):
    "Fences text as a code block that the text cannot close."
    fence = '`' * max([3] + [len(run)+1 for run in re.findall(r'`+', text)])
    text = text.strip('\n').rstrip()
    return f'{fence}{lang}\n{text}\n{fence}'


class Markdown:
    "Builds the markdown of a notebook that nbdev has processed, and its pictures by path; `nbs` leads from the text to the notebooks."
    def __init__(self, nb, base, nbs='nbs', folder='.', pictures=PICTURES):
        self.base, self.nbs, self.folder, self.stored, self.pictures = base, nbs, folder, pictures, {}
        parts = [part for cell in nb.cells for part in self.cell(cell)]
        self.text = '\n\n'.join(p.strip('\n') for p in parts if p.strip()) + '\n'

    def cell(self, cell):
        source = join(cell.source)
        if cell.cell_type == 'code': return self.code(cell, source)
        if cell.cell_type == 'raw': return [self.title(source)]
        for name, bundle in (cell.get('attachments') or {}).items():
            mime, data = next(iter(bundle.items()))
            source = source.replace(f'attachment:{name}', self.picture(f'{cell.id}-{name.rsplit(".", 1)[0]}', mime, join(data)))
        return [self.markdown(source)]

    def title(self, source):
        "Opens with the title and the subtitle that nbdev moved into the front matter."
        front = re.match(r'---\n(.*?)\n---', source, re.S)
        meta = yaml.safe_load(front.group(1)) if front else {}
        title, description = meta.get('title'), meta.get('description')
        return '\n\n'.join(filter(None, [title and f'# {title}', description and f'> {description}']))

    def code(self, cell, source):
        "Shows a code cell and its stored outputs, as its `#|` options ask."
        options = dict(re.findall(r'^#\|\s*([\w-]+)\s*:\s*(.*?)\s*$', source, re.M))
        source = re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip('\n')
        if options.get('include') == 'false': return []
        shown = [block(source, 'python')] if source.strip() and options.get('echo') != 'false' else []
        if options.get('output') == 'false': return shown
        alt = options.get('fig-alt') or options.get('fig-cap') or ''
        return shown + [self.output(o, f'{cell.id}-{i}', alt.strip('"\'')) for i, o in enumerate(cell.get('outputs') or [], 1)]

    def output(self, out, name, alt):
        "Turns one stored output into markdown: markdown itself, a picture, a table, else plain text."
        if out.output_type == 'stream': return block(join(out.text)) if join(out.text).strip() else ''
        if out.output_type == 'error': return block(f'{out.ename}: {out.evalue}')
        data = out.get('data') or {}
        if 'text/markdown' in data: return self.markdown(join(data['text/markdown']))
        mime = next((m for m in SUFFIX if m in data), None)
        if mime: return f'![{alt}]({self.picture(name, mime, join(data[mime]))})'
        if '<table' in join(data.get('text/html')): return table_md(join(data['text/html']))
        return block(join(data['text/plain'])) if 'text/plain' in data else ''

    def picture(self, name, mime, data):
        "Keeps a picture under a name that stays the same while its cell does, and gives its path."
        path = f'{self.stored}/{re.sub(r"[^A-Za-z0-9_-]+", "-", name)}.{SUFFIX[mime]}'
        self.pictures[path] = data.encode() if mime == 'image/svg+xml' else base64.b64decode(data)
        return path

    def markdown(self, source):
        "Turns what only Quarto understands into plain GitHub markdown; code is left alone."
        done, at = [], 0
        for m in FENCED.finditer(source):
            done += [self.prose(source[at:m.start()]), re.sub(r'^( *[`~]+) *\{\.?([\w+-]*)[^}\n]*\}', r'\1\2', m.group())]
            at = m.end()
        return self.callouts(''.join([*done, self.prose(source[at:])]))

    def prose(self, text):
        "Plain markdown of what stands between code blocks; code within the line is put aside meanwhile."
        codes = []
        def aside(m): return codes.append(m.group()) or f'\0{len(codes)-1}\0'
        return re.sub('\0(\\d+)\0', lambda m: codes[int(m.group(1))], self.links(self.plain(INLINE.sub(aside, text))))

    def plain(self, text):
        text = re.sub(r'\{\{<.*?>\}\}', '', text)
        text = re.sub(r'(?<=[)\]])\{[^{}\n]*\}', '', text)
        return re.sub(r'^(#{1,6} .*?)[ \t]*\{[^{}\n]*\}[ \t]*$', r'\1', text, flags=re.M)

    def links(self, text):
        "Points links at the documentation site, and pictures at their files, as seen from the text."
        def file(url): return os.path.normpath(f'{self.nbs}/{url}')

        def target(m):
            bang, words, url = m.group(1), m.group(2), m.group(3)
            parts = urlsplit(url)
            if bang: return f'![{words}]({url if parts.scheme or url in self.pictures else file(url)})'
            if parts.scheme or not parts.path: return m.group()
            page = doc_link(url, self.base, self.folder)
            return f'[{words}]({page if page != url else file(url)})'
        picture = r'!\[[^\]]*\]\([^()\s]+\)'
        text = re.sub(r'(!)\[([^\]]*)\]\(([^()\s]+)\)', target, text)
        return re.sub(rf'(?<!!)()\[((?:{picture}|[^\[\]])*)\]\(([^()\s]+)\)', target, text)

    def callouts(self, text):
        "Turns Quarto's callouts into GitHub's, and drops other fenced divs but not what they hold."
        lines, alerts = [], []
        for line in text.splitlines():
            opened = re.match(r'\s*:{3,}\s*(\{.*\}|\w+)\s*$', line)
            if opened:
                kind = re.search(r'callout-(\w+)', opened.group(1))
                alerts.append(ALERTS.get(kind.group(1)) if kind else None)
                if alerts[-1]: lines.append(f'> [!{alerts[-1]}]')
            elif re.match(r'\s*:{3,}\s*$', line): alerts[-1:] = []
            elif any(alerts): lines.append(re.sub(r'^> #+ (.*)', r'> **\1**\n>', f'> {line}'.rstrip()))
            else: lines.append(line)
        return '\n'.join(lines)


def build():
    "Makes every file of the README: its text and its pictures, as bytes by path."
    os.chdir(ROOT)
    cfg = get_config()
    nb = read_nb(cfg.nbs_path/cfg.readme_nb)
    FilterDefaults()(nb)
    made = Markdown(nb, cfg.doc_url)
    return {'README.md': made.text.encode(), **made.pictures}


def out_of_step(made):
    "Lists the paths that differ from what was made, pictures no longer shown included."
    there = {f.relative_to(ROOT).as_posix() for f in (ROOT/PICTURES).glob('*')} | {'README.md'}
    return sorted(p for p in there | made.keys() if not (ROOT/p).is_file() or (ROOT/p).read_bytes() != made.get(p))


def write():
    "Writes what differs, removes pictures no longer shown, and lists both."
    made = build()
    changed = out_of_step(made)
    for path in changed:
        if path not in made: (ROOT/path).unlink()
        else:
            (ROOT/path).parent.mkdir(exist_ok=True)
            (ROOT/path).write_bytes(made[path])
    return changed


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument('--check', action='store_true', help='write nothing; exit 1 when README.md is not in step')
    if not args.parse_args().check: return print(*write() or ['README.md is in step.'], sep='\n')
    made = build()
    changed = out_of_step(made)
    if not changed: return print('README.md is in step.')
    old = (ROOT/'README.md').read_text(encoding='utf-8').splitlines() if (ROOT/'README.md').is_file() else []
    print(*list(difflib.unified_diff(old, made['README.md'].decode().splitlines(), 'README.md', 'nbs/index.ipynb', lineterm=''))[:40], sep='\n')
    sys.exit(f'Not in step with nbs/index.ipynb: {", ".join(changed)}. Run `make sync` and commit these files.')


if __name__ == '__main__': main()

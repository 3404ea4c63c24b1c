"Brings everything that is made from the notebooks in step with them; with `--check`, fails when something was not."
import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

import readme
import siteconf

ROOT = Path(__file__).resolve().parent.parent


def snapshot():
    "Hashes every file that git tracks or would offer to track, by its path in the repository."
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT, check=True, capture_output=True)
    files = [ROOT/name for name in listed.stdout.decode().split('\0') if name]
    return {f.relative_to(ROOT).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


def sync():
    "Exports and cleans the notebooks, then writes the site's settings and sidebar, and the README."
    bin = Path(sys.executable).parent
    for tool in ('nbdev-export', 'nbdev-clean'): subprocess.run([bin/tool], cwd=ROOT, check=True)
    siteconf.write()
    readme.write()


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument('--check', action='store_true', help='exit 1 when this changes a file')
    check = args.parse_args().check
    before = snapshot()
    sync()
    after = snapshot()
    changed = sorted(f for f in before.keys() | after.keys() if before.get(f) != after.get(f))
    if not changed: return print('In step.')
    print('Not in step with the notebooks; written now:' if check else 'Written:', *(f'  {f}' for f in changed), sep='\n')
    if check: sys.exit('Run `make sync` before committing; read `git diff`, commit these files, and run again.')


if __name__ == '__main__': main()

"""Change files and states at random and read them: every error names its file, and nothing crashes, hangs or takes memory

`python scripts/fuzz.py [--n 300] [--seed 0] [TARGET ...]`: `n` inputs for each target. What is wrong is printed, one line
of JSON each (target, number of the input, kind, text); the exit code is 1 if there is any. The same seed makes the same
inputs. Each target runs in a process of its own, which ends when an input takes over five seconds of computing, or a
minute in all."""
import argparse
import collections
import copy
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

# Seconds of computing that an input may take, and of waiting in all; bytes
SECONDS, WAIT, START, MOST_BYTES = 5, 60, 300, 64 << 20
RIGHT = ValueError, TypeError, OSError
ODD = [None, True, False, 0, -1, 1, 2, 255, 2**31, 2**63 - 1, 2**63, 2**64, -2**63, -2**70, .5, -1e300, 1e400, float('nan'), '', 'x', '../x',
       '\ud800', 'a'*5000, [], [0], [[]], {}, {'x': 1}, [None]*3, [-1]*40]


class Target:
    "Something that reads: a sound input is made once, changed anew each time, and read"
    name_of_file = True # Must errors name the file?
    def make(self, folder): "Write the sound input; return its path"
    def change(self, rng, folder):
        "Write a changed input; return its path"
        raise TypeError(f'{type(self).__name__} does not define change(rng, folder).')
    def read(self, path): "Read the input, all of it"


def changed_bytes(rng, data):
    "Returns bytes with a few bits, numbers or stretches changed, or cut"
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if not data: break
        at, how = rng.randrange(len(data)), rng.randrange(6)
        if how == 0: data[at] ^= 1 << rng.randrange(8)
        elif how == 1: data[at] = rng.choice([0, 1, 10, 32, 40, 44, 45, 58, 127, 128, 255])
        elif how == 2: del data[at:]
        elif how == 3: del data[at:at + rng.randrange(1, 64)]
        elif how == 4: data[at:at] = data[max(0, at - rng.randrange(1, 64)):at]
        else:
            size = rng.choice([2, 4, 8])
            data[at:at + size] = rng.choice([0, 1, 2**(8*size) - 1, 2**(8*size - 1), rng.randrange(2**(8*size))]).to_bytes(size, 'little')
    return bytes(data)


def places(value, path=()):
    "Yields the path of each value in nested dicts and lists"
    yield path
    if isinstance(value, dict): items = value.items()
    elif isinstance(value, list): items = enumerate(value[:8])
    else: return
    for k, v in items: yield from places(v, (*path, k))


def changed_json(rng, value):
    "Returns nested dicts and lists with a value or two replaced, removed or added"
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 2])):
        *path, last = rng.choice([p for p in places(value) if p])
        here = value
        for k in path: here = here[k]
        how = rng.randrange(6)
        if how == 0: del here[last]
        elif how == 1 and isinstance(here, list): here.append(copy.deepcopy(here[last]))
        elif how == 2 and type(here[last]) is int: here[last] += rng.choice([-1, 1, 2, 1000])
        else: here[last] = copy.deepcopy(rng.choice(ODD))
    return value


class FileTarget(Target):
    "A data file of one kind"
    def __init__(self, suffix, write): self.suffix, self.write = suffix, write

    def make(self, folder):
        self.path = folder/f'sound{self.suffix}'
        self.write(self.path)
        self.files = [self.path] if self.path.is_file() else sorted(f for f in self.path.rglob('*') if f.is_file())

    def change(self, rng, folder):
        path, file = folder/f'fuzzed{self.suffix}', rng.choice(self.files)
        if path.is_dir(): shutil.rmtree(path)
        if self.path.is_dir():
            shutil.copytree(self.path, path)
            file = path/file.relative_to(self.path)
            if rng.random() < .1: file.unlink()
            else: file.write_bytes(changed_bytes(rng, file.read_bytes()))
        else: path.write_bytes(changed_bytes(rng, file.read_bytes()))
        return path

    def read(self, path):
        import numpy as np
        from tsmeta.sources.files import members
        for window in (None, 4):
            for src in members(path, **({} if window is None else dict(window=window))).values():
                rows, y = src.open()[0], src.y
                src.read(np.arange(min(len(src), 64)))


class Manifest(Target):
    "The manifest of a store, signed anew"
    def make(self, folder):
        import numpy as np
        import pandas as pd
        import tsmeta.data.open  # noqa: F401
        from tsmeta.data.dataset import TSMetaDataset
        rng = np.random.default_rng(0)
        given = {f'd{k}': (rng.normal(size=(9, 2, 6)).astype('f4'), list('aab')*3) for k in range(3)}
        meta = TSMetaDataset(given, info=pd.DataFrame(dict(age=[1, 2, 3])))
        meta.pack(folder/'fuzzed', splits=[range(0, 20), range(20, 27)])
        self.sound, self.root = json.loads((folder/'fuzzed'/'manifest.json').read_bytes()), folder/'fuzzed'

    def change(self, rng, folder):
        from tsmeta.store.disk import sign
        path = self.root/'manifest.json'
        while True:
            try: data = sign(changed_json(rng, self.sound))
            except (ValueError, UnicodeEncodeError): continue
            break
        path.write_bytes(changed_bytes(rng, data) if rng.random() < .1 else data)
        return self.root

    def read(self, path):
        import numpy as np
        from tsmeta.data.dataset import TSMetaDataset
        from tsmeta.store.store import Store
        store = Store(path)
        store.info, store.labels, store.split_views(stale=True), repr(store), store.verify()
        meta = TSMetaDataset.open(path)
        meta[np.arange(len(meta))], meta.where(np.arange(len(meta)))


class SplitsFile(Target):
    "A file of splits, with its key made anew"
    def make(self, folder):
        import numpy as np
        from tsmeta.data.dataset import TSMetaDataset
        from tsmeta.store.split_file import write_splits
        self.meta = TSMetaDataset({k: np.zeros((9, 2, 6), 'f4') for k in 'abc'})
        write_splits(folder/'sound.json', self.meta, [range(0, 20), [20, 22, 25]])
        self.sound = json.loads((folder/'sound.json').read_bytes())

    def change(self, rng, folder):
        from tsmeta.store.split_file import data_key
        doc, path = changed_json(rng, self.sound), folder/'fuzzed.json'
        if isinstance(doc.get('data'), dict) and rng.random() < .5: doc['key'] = data_key(doc['data'])
        data = json.dumps(doc).encode()
        path.write_bytes(changed_bytes(rng, data) if rng.random() < .3 else data)
        return path

    def read(self, path):
        from tsmeta.store.split_file import SplitFile
        found = SplitFile(path)
        repr(found), [view[:] for view in found(self.meta).views.values()]


class LoaderState(Target):
    "The state of a loader, with which it goes on"
    name_of_file = False
    def make(self, folder):
        import numpy as np
        from tsmeta.data.dataset import TSMetaDataset
        from tsmeta.load.loader import TSMetaDataLoader
        meta = TSMetaDataset({k: np.zeros((9, 2, 6), 'f4') for k in 'abc'})
        self.loader = lambda: TSMetaDataLoader(meta, bs=4, shuffle=True, seed=1)
        dl = self.loader()
        batches = iter(dl)
        next(batches), next(batches)
        self.sound = json.loads(json.dumps(dl.state_dict()))

    def change(self, rng, folder): return changed_json(rng, self.sound)

    def read(self, state):
        dl = self.loader()
        dl.load_state_dict(state)
        for _ in range(2): collections.deque(dl, maxlen=0)


class SafeExport(Target):
    "A safe export, with its digest made anew"
    def make(self, folder):
        import numpy as np
        from tsmeta.all import Learner, make_arch, StandardizeByDataset, TSMetaDataset
        rng = np.random.default_rng(0)
        meta = TSMetaDataset({k: (rng.normal(size=(9, 2, 16)).astype('f4'), list('abc')*3) for k in 'pq'})
        mds = meta.split([range(0, 12), range(12, 18)])
        dls = mds.dataloaders(bs=4, batch_tfms=StandardizeByDataset())
        learn = Learner(dls, make_arch('FCN', dls.vars, dls.c, dls.len, layers=[4, 4, 4]))
        learn.export_safe(folder/'fuzzed')
        self.sound, self.root = json.loads((folder/'fuzzed'/'tsmeta.json').read_bytes()), folder/'fuzzed'
        self.weights = (self.root/'weights.safetensors').read_bytes()

    def change(self, rng, folder):
        import hashlib
        weights, facts = self.weights, copy.deepcopy(self.sound)
        if rng.random() < .3:
            weights = changed_bytes(rng, weights)
            facts['weights'] = dict(sha256=hashlib.sha256(weights).hexdigest(), bytes=len(weights))
        else: facts = changed_json(rng, facts)
        (self.root/'weights.safetensors').write_bytes(weights)
        rest = {k: v for k, v in facts.items() if k != 'digest'}
        try: facts['digest'] = hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()
        except ValueError: pass
        (self.root/'tsmeta.json').write_text(json.dumps(facts))
        return self.root

    name_of_file = False # errors name `tsmeta.json` or `weights.safetensors`
    def read(self, path):
        from tsmeta.all import load_safe
        load_safe(path)


def _rows():
    import numpy as np
    return np.random.default_rng(0).normal(size=(12, 2, 8)).astype('f4')


def _npy(path):
    import numpy as np
    np.save(path, _rows())


def _npz(path):
    import numpy as np
    np.savez_compressed(path, X=_rows(), y=np.arange(12) % 3)


def _zarr(path):
    import zarr
    zarr.create_array(str(path), shape=(12, 2, 8), chunks=(4, 2, 8), dtype='f4')[:] = _rows()


def _hdf5(path):
    import h5py
    with h5py.File(path, 'w') as f: f.create_dataset('X', data=_rows(), chunks=(4, 2, 8), compression='gzip')


def _table():
    import numpy as np
    import pandas as pd
    return pd.DataFrame(dict(id=np.repeat(['a', 'b', 'c'], 10), time=list(range(10))*3, v=np.arange(30.), label=np.repeat(['x', 'y', 'x'], 10)))


def _ts(path):
    lines = [','.join(f'{v:.3f}' for v in row) + ':' + 'ab'[k % 2] for k, row in enumerate(_rows()[:, 0])]
    path.write_text('@problemName a\n@timeStamps false\n@univariate true\n@equalLength true\n@seriesLength 8\n@classLabel true a b\n@data\n' + '\n'.join(lines) + '\n')


def _tsf(path):
    lines = [f'T{k}:2020-01-01 00-00-00:' + ','.join(f'{v:.3f}' for v in row) for k, row in enumerate(_rows()[:, 0])]
    path.write_text('@relation a\n@attribute series_name string\n@attribute start_timestamp date\n@frequency daily\n@horizon 2\n'
                    '@missing false\n@equallength true\n@data\n' + '\n'.join(lines) + '\n')


TARGETS = dict(
    npy=FileTarget('.npy', _npy), npz=FileTarget('.npz', _npz), zarr=FileTarget('.zarr', _zarr), hdf5=FileTarget('.h5', _hdf5),
    csv=FileTarget('.csv', lambda p: _table().to_csv(p, index=False)), parquet=FileTarget('.parquet', lambda p: _table().to_parquet(p)),
    feather=FileTarget('.feather', lambda p: _table().to_feather(p)), ts=FileTarget('.ts', _ts), tsf=FileTarget('.tsf', _tsf),
    manifest=Manifest(), splits=SplitsFile(), state=LoaderState(), export=SafeExport())


def memory(what):
    "Returns bytes of memory of this process from its status (`VmRSS` now, `VmHWM` at most since the last reset)"
    lines = Path('/proc/self/status').read_text().splitlines() if os.path.exists('/proc/self/status') else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(what)), 0)


def one_input(target, path):
    "Reads one input; returns what is wrong as (kind, text), or `None`"
    try: Path('/proc/self/clear_refs').write_text('5')
    except OSError: pass
    before = memory('VmRSS')
    try: target.read(path)
    except RIGHT as e:
        if target.name_of_file and Path(path).name not in str(e): return 'no name', f'{type(e).__name__}: {e}'
    except MemoryError as e: return 'memory', str(e)
    except Exception as e: return 'opaque', f'{type(e).__name__}: {e}'
    took = memory('VmHWM') - before
    return ('memory', f'{took:,} bytes') if took > 2*MOST_BYTES else None


def work(name, seed, first, n, pipe):
    "Reads inputs from number `first` on; sends the number of each before it is read, and what is wrong with it"
    warnings.simplefilter('ignore')
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    target, folder = TARGETS[name], Path(tempfile.mkdtemp(prefix='tsmeta-fuzz-'))
    try:
        target.make(folder)
        one_input(target, target.change(random.Random(0), folder)) # libraries are imported now
        for k in range(first, n):
            path = target.change(random.Random(f'{seed} {name} {k}'), folder)
            pipe.send((k, 'begins', ''))
            signal.setitimer(signal.ITIMER_PROF, SECONDS) # its signal ends the process
            wrong = one_input(target, path)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if wrong: pipe.send((k, *wrong))
    finally: shutil.rmtree(folder, ignore_errors=True)
    pipe.send((n, 'done', ''))


def fuzz(name, n, seed):
    "Returns what is wrong with a target: list of (number of the input, kind, text)"
    found, first = [], 0
    while first < n:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context('fork').Process(target=work, args=(name, seed, first, n, theirs))
        process.start()
        theirs.close()
        at, kind = first, 'starts'
        while kind != 'done':
            try:
                if not ours.poll(START if kind == 'starts' else WAIT):
                    found.append((at, 'hang', f'nothing for {WAIT} seconds'))
                    break
                at, kind, text = ours.recv()
            except EOFError:
                process.join()
                kind_of_end = 'hang' if process.exitcode == -signal.SIGPROF else 'crash'
                found.append((at, kind_of_end, f'the process ended with {process.exitcode}'))
                break
            if kind not in ('begins', 'done'): found.append((at, kind, text[:300]))
        process.kill()
        process.join()
        if kind == 'starts': raise RuntimeError(f'{name}: the sound input cannot be made')
        first = at + 1
    return found


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('targets', nargs='*', help=', '.join(TARGETS))
    args.add_argument('--n', type=int, default=300, help='inputs for each target')
    args.add_argument('--seed', type=int, default=0)
    args = args.parse_args()
    wrong = 0
    for name in args.targets or TARGETS:
        began, found = time.perf_counter(), fuzz(name, args.n, args.seed)
        for k, kind, text in found: print(json.dumps(dict(target=name, input=k, wrong=kind, text=text), ensure_ascii=True))
        print(f'{name}: {args.n} inputs, {len(found)} wrong, {time.perf_counter() - began:.0f} s', file=sys.stderr, flush=True)
        wrong += len(found)
    sys.exit(wrong > 0)


if __name__ == '__main__': main()

"Small stores, and forks that are killed while they write."
import os
import signal

import numpy as np
import tsmeta.store.disk as disk
from tsmeta.data.dataset import TSMetaDataset

KILLS = int(os.environ.get('TSMETA_KILLS', 100))


def ward(seed=0, n=6):
    "Return a metadataset of small datasets of two variables"
    rng = np.random.default_rng(seed)
    data = {f'p{seed}-{i}': (rng.normal(size=(4 + i, 2, 8)).astype('float32'), rng.choice(list('ab'), 4 + i)) for i in range(n)}
    return TSMetaDataset(data, vocab=['a', 'b'], info=dict(person=[f'{seed}-{i}' for i in range(n)]))


def rows(meta):
    "Return x and y of all rows as arrays"
    return [None if o is None else np.asarray(o) for o in meta.gather(np.arange(len(meta.index)))]


def same(a, b):
    "Return whether two metadatasets have the same names and rows"
    return a.names == b.names and all(x is y or np.array_equal(x, y, equal_nan=True) for x, y in zip(rows(a), rows(b)))


def put_batch(meta, queue):
    "Put a batch into a queue; run in another process"
    queue.put([np.asarray(o) for o in meta[[5, 0, 5]]])


def slow_open(tick):
    "Return an `open` whose files are written in two halves, with `tick` called between them"
    real = open

    class Slow:
        def __init__(self, f): self.f = f
        def __enter__(self): self.f.__enter__(); return self
        def __exit__(self, *a): return self.f.__exit__(*a)
        def write(self, b):
            b = bytes(b)
            self.f.write(b[:len(b)//2])
            self.f.flush()
            tick()
            return self.f.write(b[len(b)//2:])

    return lambda path, mode='r', *a, **k: Slow(real(path, mode, *a, **k)) if mode == 'wb' else real(path, mode, *a, **k)


def in_fork(work, step):
    "Do work in a fork that is killed at its `step`-th call that touches the disk; return how many calls there were"
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        count = 0
        def hooked(f):
            def call(*args, **kwargs):
                nonlocal count
                count += 1
                if count == step: os.kill(os.getpid(), signal.SIGKILL)
                return f(*args, **kwargs)
            return call
        for n in ['replace', 'fsync', 'remove', 'unlink', 'makedirs']: setattr(os, n, hooked(getattr(os, n)))
        disk.open = slow_open(hooked(lambda: None))
        try: work()
        finally:
            os.write(write_end, str(count).encode())
            os._exit(0)
    os.close(write_end)
    os.waitpid(pid, 0)
    with os.fdopen(read_end) as f: text = f.read()
    return int(text) if text else None


def moments(total, seed):
    "Return some of the calls 1 to `total`, in order"
    rng = np.random.default_rng(seed)
    return sorted(rng.choice(np.arange(1, total + 1), min(KILLS, total), replace=False).tolist())

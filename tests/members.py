"Datasets of every kind for the property tests, each with the rows and labels it must give."
import numpy as np
import torch
from hypothesis import strategies as st

from tsmeta.sources.recordings import WindowSource

VARS, LEN = 2, 5
KINDS = ['float32', 'float64', 'float16', 'int16', 'int32', 'int64', 'uint8', 'bool', '>f4', '>i2']
LAYOUTS = ['plain', 'fortran', 'strided', 'reversed', 'transposed', 'readonly', 'tensor', 'npy', 'memmap', 'items', 'tensordataset',
           'window', 'window_time_first', 'window_npy']


class Items:
    "A dataset of somebody's own"
    def __init__(self, X, y): self.X, self.y = X, y
    def __len__(self): return len(self.X)
    def __getitem__(self, i): return self.X[i], self.y[i]


def lay_out(X, layout):
    "The same numbers with another layout in memory"
    if layout == 'fortran': return np.asfortranarray(X)
    if layout == 'strided': return np.repeat(np.repeat(X, 2, axis=0), 3, axis=2)[::2, :, ::3]
    if layout == 'reversed': return np.ascontiguousarray(X[::-1, :, ::-1])[::-1, :, ::-1]
    if layout == 'transposed': return np.ascontiguousarray(X.transpose(2, 0, 1)).transpose(1, 2, 0)
    if layout == 'readonly':
        X = X.copy()
        X.flags.writeable = False
    return X


def fresh(folder): return folder/f'{len(list(folder.iterdir()))}.npy'


def windows(rng, dtype, n, layout, folder):
    "A recording of just enough steps for `n` windows of LEN, one every 2 steps, and its windows"
    time = LEN + 2*(n-1) if n else LEN-1
    rec = numbers(rng, (VARS, time), dtype)
    X = np.stack([rec[:, 2*i:2*i+LEN] for i in range(n)]) if n else np.zeros((0, VARS, LEN), dtype)
    if layout == 'window_npy': np.save(given := str(fresh(folder)), rec)
    else: given = np.ascontiguousarray(rec.T) if layout == 'window_time_first' else rec
    return X, lambda y: WindowSource(given, LEN, 2, y=y, time_first=layout == 'window_time_first')


def numbers(rng, shape, dtype):
    x = rng.normal(scale=100, size=shape)
    return x > 0 if dtype == 'bool' else np.abs(x).astype(dtype) if dtype == 'uint8' else x.astype(dtype)


def make(seed, n, dtype, layout, alphabet, folder):
    "A member, its rows as float32, and its labels"
    rng = np.random.default_rng(seed)
    if layout.startswith('window'):
        X, wrap = windows(rng, dtype, n, layout, folder)
        label = str(rng.choice(list(alphabet)))
        return wrap(label), X.astype(np.float32), [label]*n
    X, y = numbers(rng, (n, VARS, LEN), dtype), rng.choice(list(alphabet), n)
    f4 = X.astype(np.float32)
    if layout == 'tensor' and X.dtype.isnative: return (torch.from_numpy(X), y), f4, y.tolist()
    if layout == 'tensordataset' and X.dtype.isnative and n:
        codes = np.array([ord(o) for o in y])
        return torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(codes)), f4, codes.tolist()
    if layout == 'items' and n: return Items(X, y), f4, y.tolist()
    if layout in ('npy', 'memmap'):
        np.save(path := fresh(folder), X)
        return (str(path) if layout == 'npy' or not n else np.load(path, mmap_mode='r'), y), f4, y.tolist()
    return (lay_out(X, layout), y), f4, y.tolist()


member = st.tuples(st.integers(0, 2**32), st.integers(0, 6), st.sampled_from(KINDS), st.sampled_from(LAYOUTS), st.sampled_from(['ab', 'bc', 'xyz']))

"Fourteen faults of tsai 1.0.1's metadataset and its loaders, reproduced on tsai and run the same way on tsmeta"
import contextlib, io, random, tempfile, time, warnings
from pathlib import Path
import numpy as np, torch
from fastai.data.load import DataLoader
from fastai.learner import Learner, load_learner
from fasttransform import Transform
from fastcore.foundation import L
from tsai.basics import TSClassification, TSDataLoader, TSDataLoaders, TSDatasets, TSRegression, TSTensor, TimeSplitter
from tsai.data import metadatasets as tsai_meta
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.load.loader import TSMetaDataLoaders
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.splits.splitters import EachSplitter
from common import save, seconds, setting


def numbered(n_datasets, rows, steps=4):
    "Datasets whose rows hold their own number, so that every row can be recognised"
    out, first = [], 0
    for n in ([rows]*n_datasets if isinstance(rows, int) else rows):
        out.append((np.tile(np.arange(first, first+n, dtype=np.float32)[:, None, None], (1, 1, steps)), np.arange(n) % 2))
        first += n
    return out


def tsai_of(members, tfm=TSClassification): return tsai_meta.TSMetaDataset([TSDatasets(x, y, tfms=[None, tfm()]) for x, y in members])
def ours_of(members): return TSMetaDataset(members)
def tsai_split(members, train, valid): return tsai_meta.TSMetaDatasets(tsai_of(members), splits=(L(list(train)), L(list(valid))))
def ours_split(members, train, valid): return TSMetaDatasets(ours_of(members), (train, valid))
def tsai_dls(ds, **kw): return TSDataLoaders.from_dsets(ds.train, ds.valid, device='cpu', num_workers=0, **kw)
def ours_dls(ds, **kw): return TSMetaDataLoaders.from_dsets(ds.train, ds.valid, device='cpu', **kw)
def number(x): return np.asarray(x[:, 0, 0], np.float64).round().astype(int)


def says(f, *args, **kwargs):
    "What `f` returns, or the kind of error it raises and the beginning of its message"
    try: return f(*args, **kwargs)
    except Exception as e:
        text = ' '.join(str(e).split())
        return f'{type(e).__name__}: {text[:90]}{"…" if len(text) > 90 else ""}'


class AddTen(Transform):
    "A transform that runs on training data only"
    split_idx = 0
    def encodes(self, x: TSTensor): return x + 10


def train_only_transforms():
    "1. Batch transforms meant for training only"
    def run(split, dls):
        members = [(np.zeros_like(x), y) for x, y in numbered(4, 100)]
        x = dls(split(members, range(300), range(300, 400)), bs=256, batch_tfms=AddTen()).train.one_batch()[0]
        return f'{int((number(x) == 10).sum())} of {len(x)} rows changed'
    return says(run, tsai_split, tsai_dls), says(run, ours_split, ours_dls)


def unsplit_and_forms():
    "2. `DataLoader(metadataset)` without a split, and splits as list, `L`, range, array, tensor, slice"
    def forms(datasets, members):
        ok = []
        for form in (list, L, range, np.array, torch.tensor, slice):
            part = form(0, 30) if form in (range, slice) else form(list(range(30)))
            try: ok += [form.__name__] if len(datasets(members, part)[[2, 0, 1]][0]) == 3 else []
            except Exception: pass  # a form that fails in any way is a form that does not count
        return f'{len(ok)} of 6 forms of split can be indexed with a list' + (f' ({", ".join(ok)})' if len(ok) < 6 else '')
    members = numbered(3, 20)
    a = says(lambda: f'loads {len(TSDataLoader(tsai_of(members), bs=16, device="cpu").one_batch()[0])} rows')
    b = says(lambda: f'loads {len(TSMetaDataLoader(ours_of(members), bs=16, device="cpu").one_batch()[0])} rows')
    theirs = forms(lambda m, p: tsai_meta.TSMetaDatasets(tsai_of(m), splits=(p,)).train, members)
    ours = forms(lambda m, p: TSMetaDatasets(ours_of(m), (p,)).train, members)
    return f'{a}; {theirs}', f'{b}; {ours}'


def asked_order():
    "3. Rows in the order asked for, and `get_preds` on a shuffled split"
    members, order = numbered(5, 120), np.random.default_rng(0).permutation(600)
    def run(split, dls):
        ds = split(members, order[:300].tolist(), order[300:].tolist())
        asked = np.random.default_rng(1).permutation(300)[:256].tolist()
        got = int((number(ds.train[asked][0]) != order[:300][asked]).sum())
        learn = Learner(dls(ds, bs=64), torch.nn.Flatten(), loss_func=torch.nn.CrossEntropyLoss())
        with learn.no_bar(), learn.no_logging(): preds = learn.get_preds(ds_idx=1)[0]
        return f'{got} of 256 rows elsewhere than asked; {int((preds[:, 0].numpy().round() != order[300:]).sum())} of 300 predictions in another row\'s place'
    return says(run, tsai_split, tsai_dls), says(run, ours_split, ours_dls)


def provenance():
    "4. `mapping_idxs` with workers, and after reading `dls.vars`"
    members, starts = numbered(5, 80), np.arange(5)*80
    def run(split, dls, workers):
        ds = split(members, range(300), range(300, 400))
        loaders = TSDataLoaders.from_dsets(ds.train, ds.valid, bs=64, num_workers=workers, device='cpu') if dls is tsai_dls else dls(ds, bs=64, num_workers=workers)
        for x, _ in loaders.train:
            if not workers: loaders.vars
            at = getattr(loaders.train.dataset, 'mapping_idxs', None)
            if at is None: return 'not set'
            return f'{int((starts[at[:, 0]] + at[:, 1] != number(x)).sum())} of {len(x)} wrong'
    both = lambda s, d: f'one worker: {says(run, s, d, 1)}; after `dls.vars`: {says(run, s, d, 0)}'
    return both(tsai_split, tsai_dls), both(ours_split, ours_dls)


def vocabularies():
    "5. Members with labels [cat, dog] and [bird, cat]; a label nobody knows"
    rng = np.random.default_rng(0)
    x, y = [np.zeros((n, 1, 4), np.float32) for n in (100, 130)], [rng.choice(['cat', 'dog'], 100), rng.choice(['bird', 'cat'], 130)]
    want = np.concatenate(y)
    def run(make):
        meta = make(list(zip(x, y)))
        codes, vocab = np.asarray(meta[list(range(230))][1]), list(meta.vocab)
        return f'{int((np.array([vocab[int(c)] for c in codes]) != want).sum())} of 230 labels wrong'
    def unknown_tsai():
        new = TSDatasets(x[0], y[0], tfms=[None, TSClassification()]).add_dataset(x[0][:1], y=['zebra'])
        return f"'zebra' becomes class {int(new[0][1])}"
    def unknown_ours(): return f"'zebra' becomes class {int(ours_of(list(zip(x, y))).add_dataset(x[0][:1], y=['zebra'])[0][1])}"
    return f'{says(run, tsai_of)}; {says(unknown_tsai)}', f'{says(run, ours_of)}; {says(unknown_ours)}'


def mixed_members():
    "6. A member without labels, with other targets, with another shape"
    x, y = np.zeros((60, 2, 8), np.float32), np.arange(60) % 2
    odd = {'no labels': (x, None), 'numbers as targets': (x, np.linspace(0, 1, 60)), 'another shape': (np.zeros((60, 2, 9), np.float32), y)}
    def tsai_ds(x, y): return TSDatasets(x, y, tfms=[None, TSRegression() if y.dtype.kind == 'f' else TSClassification()]) if y is not None else TSDatasets(x)
    def epoch(make, loader):
        meta = make()
        n, dl = 0, loader(meta)
        try:
            for _ in dl: n += 1
        except Exception as e: return f'{type(e).__name__} after {n} of {len(dl)} batches'
        return 'no error'
    def run(make, loader): return '; '.join(f'{k}: {_first(says(epoch, lambda: make(m), loader))}' for k, m in odd.items())
    theirs = run(lambda m: tsai_meta.TSMetaDataset([tsai_ds(x, y), tsai_ds(*m)]), lambda meta: TSDataLoader(meta, bs=2, shuffle=True, device='cpu'))
    ours = run(lambda m: TSMetaDataset([(x, y), m]), lambda meta: TSMetaDataLoader(meta, bs=2, shuffle=True))
    return theirs, ours


def _first(text): return text if text.startswith('no error') or ' after ' in text else f'{text.split(":")[0]} before training'


def small_integers():
    "7. Validation sets of every size from 1 to 300 (bs 64), and of about 32,767 rows (bs 512)"
    def bad(split, dls, sizes, bs):
        n = 0
        members = numbered(1, max(sizes) + bs, 1)
        for size in sizes:
            dl = dls(split(members, range(bs), range(bs, bs+size)), bs=bs).valid
            rows = says(lambda: [len(b[0]) for b in dl])
            n += isinstance(rows, str) or sum(rows) != size or 0 in rows
        return n
    def run(split, dls):
        few, many = range(1, 301), (32_300, 32_600, 32_767, 32_768)
        return f'{bad(split, dls, few, 64)} of 300 sizes fail or lose rows; {bad(split, dls, many, 512)} of {len(many)} large ones'
    return says(run, tsai_split, tsai_dls), says(run, ours_split, ours_dls)


def export():
    "8. Size of an exported learner, and what it knows after loading"
    def run(split, dls):
        sizes = []
        with tempfile.TemporaryDirectory() as folder:
            for n in (10_000, 1_000_000):
                ds = split(numbered(10, n//10, 1), range(n - 100), range(n - 100, n))
                learn = Learner(dls(ds, bs=64), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2)), loss_func=torch.nn.CrossEntropyLoss(), path=folder)
                learn.export('learner.pkl')
                sizes.append((Path(folder)/'learner.pkl').stat().st_size)
            loaded = load_learner(Path(folder)/'learner.pkl').dls
        known = []
        for k in ('c', 'vars', 'vocab'):
            try: known += [k]*(getattr(loaded, k) is not None)
            except Exception: pass  # tsai raises in several ways what it does not know any more
        return f'{sizes[0]/1e6:.2f} MB at 10⁴ rows, {sizes[1]/1e6:.2f} MB at 10⁶; loaded, it knows {", ".join(known) or "none"} of c, vars, vocab'
    return says(run, tsai_split, tsai_dls), says(run, ours_split, ours_dls)


def many_members():
    "9. A batch of 512 out of 10,000 datasets; `TimeSplitter` over more than a million rows"
    rng, members = np.random.default_rng(0), numbered(10_000, 5, 50)
    ids = [rng.permutation(50_000)[:512] for _ in range(8)]
    def batch(meta):
        k = iter(range(10**9))
        return seconds(lambda: meta[ids[next(k) % 8].tolist()], .2)*1e3
    def large(make, datasets):
        meta = make(numbered(2, 600_000, 1))
        with contextlib.redirect_stdout(io.StringIO()): splits = TimeSplitter(show_plot=False)(meta)
        return f'loads {len(datasets(meta, splits).train[[5, 3]][0])} rows'
    theirs = f'{batch(tsai_of(members)):.1f} ms; {says(large, tsai_of, lambda m, s: tsai_meta.TSMetaDatasets(m, splits=s))}'
    return theirs, f'{batch(ours_of(members)):.2f} ms; {says(large, ours_of, TSMetaDatasets)}'


def time_split():
    "10. Validating on the end of each of 10 series"
    members = numbered(10, 100)
    with contextlib.redirect_stdout(io.StringIO()): ids = np.asarray(TimeSplitter(show_plot=False)(tsai_of(members))[1])
    theirs = len(np.unique(ids//100))
    ours = int((ours_of(members).split(EachSplitter(.2)).valid.lens > 0).sum())
    return f'`TimeSplitter` validates on {theirs} of 10 datasets', f'`EachSplitter` validates on {ours} of 10 datasets'


def weights():
    "11. Weights without shuffling, every other row having weight 0; the same order for the same seed"
    members, w = numbered(4, 100), np.arange(400) % 2.
    def theirs(seed):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        ds = tsai_split(members, range(400), range(400))
        return TSDataLoaders.from_dsets(ds.train, ds.valid, bs=64, weights=[w, None], shuffle_train=False, device='cpu', num_workers=0).train
    def ours(seed, shuffle=True): return TSMetaDataLoader(ours_of(members), bs=64, shuffle=shuffle, weights=w, seed=seed)
    def run(loader):
        rows, again = (np.concatenate([number(b[0]) for b in loader(1)]) for _ in range(2))
        same = 'the same' if np.array_equal(rows, again) else 'another'
        return f'{int((w[rows] == 0).sum())} of {len(rows)} rows have weight 0; {same} order for the same seed'
    return says(run, theirs), f'{says(lambda: run(lambda seed: ours(seed, False)))} With it: {says(run, ours)}'


def anonymous(): return int(next(l for l in open('/proc/self/status') if l.startswith('RssAnon')).split()[1])/1e3


def memmaps():
    "12. Memory taken by a memory-mapped member of 200 MB"
    with tempfile.TemporaryDirectory() as folder:
        np.save(f'{folder}/x.npy', np.ones((50_000, 10, 100), np.float32))
        y = np.arange(50_000) % 2
        def run(make):
            before = anonymous()
            meta = make(np.load(f'{folder}/x.npy', mmap_mode='r'))
            return f'{anonymous() - before:.0f} MB' + ''*len(meta)
        return says(run, lambda x: TSDatasets(x, y, tfms=[None, TSClassification()], inplace=True)), says(run, lambda x: TSMetaDataset([(x, y)]))


def renewed():
    "13. What `dl.new()` keeps"
    members = numbered(4, 100)
    ds = tsai_split(members, range(300), range(300, 400))
    theirs = TSDataLoader(ds.train, bs=64, weights=np.ones(300), sort=True, vocab=['a', 'b'], device='cpu')
    new = theirs.new()
    lost = [k for k in ('weights', 'sort', 'vocab') if str(getattr(theirs, k, None)) != str(getattr(new, k, None))]
    ours = TSMetaDataLoader(ours_split(members, range(300), range(300, 400)).train, bs=64, shuffle=True, drop_last=True, seed=3)
    again = ours.new()
    gone = [k for k in ('bs', 'shuffle', 'drop_last', 'seed', 'vocab') if str(getattr(ours, k, None)) != str(getattr(again, k, None))]
    same = np.array_equal(ours.get_idxs(), again.get_idxs())
    return f'loses {", ".join(lost) or "nothing"}', f'loses {", ".join(gone) or "nothing"}; {"the same" if same else "another"} order of rows'


def start_of_epoch():
    "14. First shuffled batch of 5 million rows"
    class Rows:
        def __len__(self): return 5_000_000
        def __getitem__(self, i): return i
    meta = TSMetaDataset([np.zeros((5_000_000, 1, 1), np.float32)])
    def first(dl):
        t = time.perf_counter()
        next(iter(dl))
        return time.perf_counter() - t
    theirs, ours = first(DataLoader(Rows(), bs=64, shuffle=True, num_workers=0)), first(TSMetaDataLoader(meta, bs=64, shuffle=True))
    return f'{theirs:.1f} s (fastai\'s `DataLoader`)', f'{ours*1e3:.1f} ms'


FAULTS = (train_only_transforms, unsplit_and_forms, asked_order, provenance, vocabularies, mixed_members, small_integers, export, many_members,
          time_split, weights, memmaps, renewed, start_of_epoch)


def main():
    warnings.filterwarnings('ignore')
    lines = ['| what is tried | tsai 1.0.1 | tsmeta |', '| --- | --- | --- |']
    for f in FAULTS:
        theirs, ours = (str(o).replace('|', '\\|') for o in f())
        lines.append(f'| {f.__doc__} | {theirs} | {ours} |')
        print(lines[-1], flush=True)
    save('faults.md', '\n'.join(['# The same things tried with tsai\'s metadataset and with tsmeta', '', setting('tsai', 'fastai', 'torch', 'numpy'), '', *lines]))


if __name__ == '__main__': main()

"""Wrote the files in `golden/v0.1`: it was run once, with version 0.1.0, whose modules lay flat in one folder.

Kept for the record, to say what the files hold. It is not run again: files of a later version come from a script
of their own.
"""

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import numpy as np
import old_files
import pandas as pd
import torch
from fastai.losses import MSELossFlat
from fastai.metrics import accuracy
from tsmeta.all import DatasetMetrics
from tsmeta.all import EachSplitter
from tsmeta.all import HoldoutSplitter
from tsmeta.all import Missing
from tsmeta.all import OwnLabels
from tsmeta.all import Ragged
from tsmeta.all import StandardizeByDataset
from tsmeta.all import TSMetaDataset
from tsmeta.all import Times
from tsmeta.all import Vars
from tsmeta.all import make_arch
from tsmeta.all import write_splits
from tsmeta.labels import LabelDataset
from tsmeta.labels import store_label_mmap
from tsmeta.nested import TSMetaView

OUT = HERE / 'v0.1'


def x(rng, n, n_vars=2, steps=6):
    return rng.normal(size=(n, n_vars, steps)).astype(np.float32).round(3)


def stores():
    "Metadatasets of many kinds, and how each is packed"
    rng = np.random.default_rng(1)
    text = {
        f'ward {k}': (x(rng, n), np.array(['run', 'sit', 'walk'])[np.arange(n) % 3])
        for k, n in enumerate((9, 5, 12, 8))
    }
    info = dict(
        person=['ä', 'b', 'c', 'b'],
        age=[31, 40, 55, 2],
        weight=[60.5, None, 80, 13.25],
        seen=[True, False, True, True],
    )
    yield (
        'text',
        TSMetaDataset(text, info=info, var_names=['u', 'v']),
        dict(
            splits={'train': 'train[:75%]', 'valid': np.arange(26, 30), 'test': [33, 30, 31]},
            labels={
                'age': np.arange(34) % 5,
                'place/room': np.array(['attic', 'hall'])[np.arange(34) % 2],
                'place/at': rng.normal(size=(34, 2)).astype(np.float32),
            },
            part_rows=14,
        ),
    )
    yield (
        'ints',
        TSMetaDataset([(x(rng, 4).astype(np.float64), [7, 3, 900, 3]), (x(rng, 3).astype(np.float64), [3, 3, -2])]),
        {},
    )
    yield 'bools', TSMetaDataset([(x(rng, 4), [True, False, True, True])], vocab=[False, True]), {}
    yield 'multi', TSMetaDataset([(x(rng, 4), [['p'], [], ['q', 'p'], ['r']]), (x(rng, 2), [['q'], ['s']])]), {}
    yield (
        'namespaced',
        TSMetaDataset(dict(a=(x(rng, 4), list('uvuv')), b=(x(rng, 3), list('vww'))), labels='namespaced'),
        {},
    )
    yield 'float', TSMetaDataset([(x(rng, 4), np.array([1.5, -2, np.pi, 0])), (x(rng, 3), np.array([1.0, 2, 3]))]), {}
    yield 'pair', TSMetaDataset([(x(rng, 4), rng.normal(size=(4, 2)).astype(np.float32))]), {}
    yield 'per_step', TSMetaDataset([(x(rng, 4), np.array(list('abcabc' * 4)).reshape(4, 6))]), {}
    yield (
        'none',
        TSMetaDataset(
            [
                (np.arange(48).reshape(4, 2, 6) % 17).astype(np.int16),
                (np.arange(24).reshape(2, 2, 6) % 5).astype(np.uint8),
            ]
        ),
        {},
    )
    holes = [x(rng, 3, 2, 6), x(rng, 4, 3, 4), x(rng, 2, 2, 9)]
    for h in holes:
        h[rng.random(h.shape) < 0.15] = np.nan
    yield (
        'policies',
        TSMetaDataset(
            [(h, np.array(['up', 'down', 'UP'])[np.arange(len(h)) % 3]) for h in holes],
            names=['p', 'q', 'r'],
            var_names=[['u', 'v'], ['v', 'w', 'u'], ['u', 'w']],
            ragged=Ragged('fit', len=7, side='center', value=-1.0, mask=True),
            vars=Vars('union', fill=0.5, mask=True),
            missing={'p': 'linear', '*': Missing(0.0, mask=True)},
            label_map={'UP': 'up'},
        ),
        {},
    )
    recordings = [rng.normal(size=(2, n)).astype(np.float32).round(3) for n in (25, 30, 18)]
    day = np.datetime64('2026-03-01T08:00', 'ns')
    steps = [np.arange(n) + 5 * (np.arange(n) > 11) for n in (25, 30, 18)]
    dates = [pd.DatetimeIndex(day + s.astype('m8[s]')).tz_localize('UTC') for s in steps]
    yield (
        'dates',
        TSMetaDataset.from_recordings(
            recordings, 6, 3, y=['a', 'b', 'a'], times=Times(dates, max_gap='2s'), var_names=['u', 'v']
        ),
        dict(splits=EachSplitter(0.3)),
    )
    yield (
        'numbers',
        TSMetaDataset.from_recordings(recordings, 6, 4, horizon=2, times=Times(start=[0.0, 5.0, 2.0], rate=4.0)),
        {},
    )
    yield (
        'windows',
        TSMetaDataset.from_recordings(recordings, 6, 2, y=[np.arange(n) // 9 for n in (25, 30, 18)], y_reduce='mode'),
        dict(splits=HoldoutSplitter(1, seed=3)),
    )


def write_stores(want):
    for name, meta, how in stores():
        packed = meta.pack(OUT / 'stores' / name, **how)
        store = packed.store.describe(description='Written by version 0.1.0') if name == 'text' else packed.store
        views = {k: v.ids().tolist() for k, v in store.split_views().items()}
        labels = {k: old_files.floats(a) for k, a in store.labels.items() if k != 'y'}
        want['stores'][name] = dict(
            old_files.told(TSMetaDataset.open(OUT / 'stores' / name)), splits=views, labels=labels
        )


def write_split_files(want):
    (OUT / 'splits').mkdir()
    for name, how in dict(
        text=dict(train=np.arange(0, 34, 2), valid=[5, 3, 31], test='train[25:26]'),
        dates=EachSplitter(0.3, gap=1),
        windows=HoldoutSplitter(1, seed=3),
    ).items():
        meta = TSMetaDataset.open(OUT / 'stores' / name)
        write_splits(OUT / 'splits' / f'{name}.json', meta, how, how='for later versions')
        want['splits'][name] = {k: v.ids().tolist() for k, v in meta.split(how).splits.views.items()}


def write_labels(want):
    """Folders of labels as edflow names them and with headers, and views over both.

    They go into one archive, since some systems don't take the `*` of edflow's names.
    """
    root = OUT / 'folders'
    for folder, edflow in dict(edflow=True, headers=False).items():
        store_label_mmap(np.arange(8) * 10, root / folder, 'age', edflow=edflow)
        store_label_mmap(np.array(list('ab') * 4), root / folder, 'deep/kind', edflow=edflow)
        store_label_mmap(np.arange(16.0).reshape(8, 2).astype(np.float32), root / folder, 'deep/xy', edflow=edflow)
        store_label_mmap(np.arange(8) % 3, root / folder, 'c:category', edflow=edflow)
        (root / folder / 'meta.yaml').write_text(
            'description: rows\nloader_kwargs: {c: {categories: [low, middle, high]}}\n'
        )
        views = root / f'{folder}-views'
        store_label_mmap(np.array([[0, 1, 2], [5, 6, 7], [3, 3, 1]]), views, 'frames', edflow=edflow)
        store_label_mmap(np.array([7, 0, 2]), views, 'other', edflow=edflow)
        store_label_mmap(np.array([1.5, 2.5, 3.5]), views, 'score', edflow=edflow)
        (views / 'meta.yaml').write_text(
            'description: views\nbase_dset: edflow.data.believers.meta.MetaDataset\n'
            f'base_kwargs: {{root: ../{folder}}}\nviews: {{seq: frames, pair: [other, other]}}\n'
        )
        rows, seen = LabelDataset(root / folder), TSMetaView.open(views)
        want['labels'][folder] = dict(
            rows=json.loads(json.dumps(rows[:], default=old_files.floats)),
            examples=json.loads(json.dumps(seen[:], default=old_files.floats)),
            labels={k: old_files.floats(a) for k, a in seen.labels.flat().items()},
        )
        shutil.rmtree(views / '.view-labels')
    shutil.make_archive(str(OUT / 'folders'), 'zip', root)
    shutil.rmtree(root)


def write_states(want):
    ds, states = TSMetaDataset.open(OUT / 'stores' / 'text'), {}
    train = ds.split(old_files.SPLITTER).train
    for name, (make, n) in old_files.LOADERS.items():
        for part, rows in dict(whole=ds, train=train).items():
            dl = make(rows)
            state = old_files.after(dl, n)
            new = make(rows)
            new.load_state_dict(state)
            states[f'{name} {part}'], want['states'][f'{name} {part}'] = state, old_files.coming(new)
    dls = ds.split(old_files.SPLITTER).dataloaders(bs=4, seed=3, device='cpu')
    old_files.after(dls.train, 2)
    states['both'] = dls.state_dict()
    want['states']['both'] = [
        old_files.coming(dl)
        for dl in _resumed(ds.split(old_files.SPLITTER).dataloaders(bs=4, seed=3, device='cpu'), states['both']).loaders
    ]
    stream = old_files.streamed(ds)
    it = iter(stream)
    for _ in range(4):
        next(it)
    states['stream'] = stream.state_dict()
    want['states']['stream'] = [
        [b['sample_uid'].tolist() for b in s] for s in [_resumed(old_files.streamed(ds), states['stream'])] * 2
    ]
    (OUT / 'states.json').write_text(json.dumps(states, indent=1) + '\n')


def _resumed(o, state):
    o.load_state_dict(state)
    return o


def write_checkpoint(want):
    ds = TSMetaDataset.open(OUT / 'stores' / 'text')
    try:
        old_files.train(old_files.small_learner(ds), OUT / 'checkpoint', [old_files.StopAfter(8)])
    except old_files.Stopped:
        pass
    copy = OUT / 'copy'
    shutil.copytree(OUT / 'checkpoint', copy)
    torch.manual_seed(9)
    seen = old_files.Seen()
    learn = old_files.train(old_files.small_learner(ds), copy, [seen])
    shutil.rmtree(copy)
    want['checkpoint'] = dict(
        ids=seen.ids, weights=old_files.weights(learn), losses=[float(v) for v in learn.recorder.losses]
    )


def fitted(learn):
    with learn.no_logging():
        learn.fit(1, 1e-2)
    return learn


def write_export(name, learn, rows, want):
    want['exports'][name] = old_files.predicted(learn, old_files.rows_for(name, rows))
    learn.export(OUT / 'exports' / f'{name}.learner')


def write_exports(want):
    """Learners of data in memory: an export of version 0.1.0 that was trained on a store remembers where the store was.

    Those without tsai are written before it is imported.
    """
    given = {name: meta for name, meta, _ in stores()}
    text, number, spaced, holes = (given[k] for k in ('text', 'float', 'namespaced', 'policies'))
    rng = np.random.default_rng(5)
    new = {k: x(rng, 5) for k in ('plain', 'by_dataset', 'numbers', 'own_labels', 'tsai')} | dict(
        policies=x(rng, 5, 3, 4)
    )
    learn = dict(
        plain=old_files.small_learner(text, metrics=accuracy),
        by_dataset=old_files.small_learner(text, [StandardizeByDataset()], cbs=DatasetMetrics(accuracy)),
        numbers=old_files.small_learner(number, [StandardizeByDataset()], loss_func=MSELossFlat()),
        own_labels=old_files.small_learner(spaced, cbs=OwnLabels()),
        policies=old_files.small_learner(holes),
    )
    (OUT / 'exports').mkdir()
    for name, o in learn.items():
        write_export(name, fitted(o), new[name], want)
    from tsai.basics import TSStandardize

    fcn = lambda dls: make_arch('FCN', dls.vars, dls.c, dls.len, layers=[4, 6, 4], kss=[3, 3, 3])
    tsai = fitted(old_files.small_learner(text, [TSStandardize(by_var=True)], fcn))
    write_export('tsai', tsai, new['tsai'], want)
    safe = dict(
        tsai=tsai,
        own_labels=fitted(old_files.small_learner(spaced, None, fcn, cbs=OwnLabels())),
        policies=fitted(old_files.small_learner(holes, None, fcn)),
        numbers=fitted(old_files.small_learner(number, [StandardizeByDataset()], fcn, loss_func=MSELossFlat())),
    )
    for name, o in safe.items():
        want['safe'][name] = old_files.predicted(o, old_files.rows_for(name, new[name]))
        o.export_safe(OUT / 'safe' / name)
    np.savez(OUT / 'inputs.npz', **new)


if __name__ == '__main__':
    import tsmeta

    assert tsmeta.__version__ == '0.1.0', 'These files are those of version 0.1.0.'
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    want = {k: {} for k in ('stores', 'splits', 'labels', 'states', 'checkpoint', 'exports', 'safe')}
    for write in (write_stores, write_split_files, write_labels, write_states, write_checkpoint, write_exports):
        write(want)
    for lock in OUT.rglob('.lock'):
        lock.unlink()
    lines = [
        f'{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}'
        for k, v in ((f'{a} {b}', v) for a, part in want.items() for b, v in part.items())
    ]
    (OUT / 'expected.json').write_text('{\n' + ',\n'.join(lines) + '\n}\n')

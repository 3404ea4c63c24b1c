"Compute orders and draws that must stay as they are: `tests/golden` holds them, `test_golden.py` compares."

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.vision.augment import RandTransform
from sklearn.model_selection import KFold
from tsmeta.all import EachSplitter
from tsmeta.all import HoldoutSplitter
from tsmeta.all import Mix
from tsmeta.all import Ragged
from tsmeta.all import SklearnSplitter
from tsmeta.all import Stream
from tsmeta.all import TSMetaDataLoader
from tsmeta.all import TSMetaDataset
from tsmeta.all import WalkForwardSplitter
from tsmeta.all import even_splits
from tsmeta.all import split_for_process
from tsmeta.batches.plan import BucketPlan
from tsmeta.batches.plan import RunPlan
from tsmeta.batches.permutation import keyed_number
from tsmeta.batches.permutation import keyed_numbers
from tsmeta.load.feed import Sampler
from tsmeta.batches.plan import MixPlan
from tsmeta.batches.plan import order_plan
from tsmeta.batches.plan import Plan
from tsmeta.batches.permutation import hash64
from tsmeta.batches.permutation import mix64
from tsmeta.batches.permutation import perm_keys
from tsmeta.batches.permutation import permute
from tsmeta.load.distributed import Shard
from tsmeta.load.reading import keyed
from tsmeta.batches.plan import make_plan
from tsmeta.batches.permutation import uniform
from tsmeta.load.workers import keyed_rng
from tsmeta.load.workers import seed_globals

GOLDEN = Path(__file__).parent / 'golden'
SIZES = 5, 5_000, 70_000
FEW, SHOWN = 32, 16


def pin(values):
    "Return few numbers as they are, of many the sha256 of their little-endian bytes with the first and last 16"
    a = np.asarray(values)
    a = a.astype('<f8' if a.dtype.kind == 'f' else '<i8').ravel()
    if len(a) <= FEW:
        return a.tolist()
    return dict(
        n=len(a), sha256=hashlib.sha256(a.tobytes()).hexdigest(), first=a[:SHOWN].tolist(), last=a[-SHOWN:].tolist()
    )


def pin_sizes(batches):
    "Return how many batches of which size follow each other, `[size, count]`; pinned if sizes change often"
    sizes = np.array([len(b) for b in batches], np.int64)
    begins = np.flatnonzero(np.diff(sizes, prepend=-1))
    counts = np.diff(np.append(begins, len(sizes)))
    return [[int(sizes[i]), int(c)] for i, c in zip(begins, counts)] if len(begins) <= 8 else pin(sizes)


def joined(batches):
    return np.concatenate([np.zeros(0, np.int64), *batches])


def pin_epoch(batches):
    batches = list(batches)
    return dict(rows=pin(joined(batches)), sizes=pin_sizes(batches))


def write(name, made):
    "Write pinned cases, one per line"
    lines = [f'{json.dumps(k)}: {json.dumps(v)}' for k, v in made.items()]
    (GOLDEN / name).write_text('{\n' + ',\n'.join(lines) + '\n}\n')


# Plans


def lens_of(n):
    "Return the rows of seven datasets, `n` in all; some have none"
    return np.diff(n * np.cumsum([0, 3, 1, 0, 8, 2, 5, 1]) // 20)


def scattered(n):
    "Return a fixed permutation of 0 … n-1 that no code of tsmeta makes"
    return (np.arange(n) * 7919 + 3) % n


def weights_of(n):
    return np.arange(n) % 7 + (np.arange(n) % 3 == 1) * 0.5


def classes_of(n):
    return (np.arange(n) ** 2 % 11) % 4


KEYS = [1, 0, 1, 2, 0, 2, 1]
MIXES = dict(
    proportional='proportional',
    equal='equal',
    temperature=('temperature', 3.0),
    first_exhausted=Mix('equal', stopping_strategy='first_exhausted'),
    all_exhausted=Mix('equal', stopping_strategy='all_exhausted'),
    batches=Mix('equal', stopping_strategy=2),
    proportion=Mix(proportion=0.5),
    repeat=Mix(repeat=2),
    choose=Mix(choose=3),
    cap=Mix('proportional', cap=4),
    stratified=Mix('equal', batching='stratified'),
    per_dataset=Mix('proportional', batching='per_dataset'),
    repeat_per_dataset=Mix(repeat=1.5, batching='per_dataset'),
    choose_stratified=Mix(choose=[3, 2, 0, 6, 1, 4, 9], batching='stratified'),
    shares=None,
    repeat_each=Mix(repeat=[1, 2, 3, 0.5, 1, 0, 4]),
)


def mix_of(name, lens):
    return (lens > 0) * np.arange(1.0, 8.0) if name == 'shares' else MIXES[name]


def plans(n):
    "Return a plan of every kind over `n` rows, by name"
    lens, bs, where = lens_of(n), 2 if n < 64 else 64, scattered(n)
    every = dict(seed=11)
    out = dict(
        sequential=Plan(n, bs),
        shuffled=Plan(n, bs, True, **every),
        shuffled_drop_last=Plan(n, bs, True, drop_last=True, **every),
        shuffled_seed_0=Plan(n, bs, True),
    )
    for name, how in dict(
        within='within', block='block', block_of_100=('block', 100), block_of_30_by_3=('block', 30, 3)
    ).items():
        out[name] = order_plan(how, lens, bs, **every)
    out['within_scattered'] = order_plan('within', lens, bs, where, **every)
    out['partial'] = make_plan(n, bs, take=0.4, shuffle=True, **every)
    out['partial_in_order'] = make_plan(n, bs, take=0.4)
    out['weighted'] = make_plan(n, bs, weights=weights_of(n), shuffle=True, **every)
    out['weighted_take'] = make_plan(n, bs, weights=weights_of(n), take=0.5, shuffle=True, drop_last=True, **every)
    out['stratified'] = make_plan(n, bs, groups=classes_of(n), shuffle=True, **every)
    out['stratified_in_order'] = make_plan(n, bs, groups=classes_of(n))
    out['stratified_take'] = make_plan(n, bs, groups=classes_of(n), take=0.5, shuffle=True, drop_last=True, **every)
    for name in MIXES:
        out[f'mix_{name}'] = MixPlan(lens, bs, mix_of(name, lens), **every)
    for name in ('equal', 'stratified', 'per_dataset'):
        out[f'mix_{name}_drop_last'] = MixPlan(lens, bs, MIXES[name], drop_last=True, **every)
    out['mix_equal_scattered'] = MixPlan(lens, bs, 'equal', where=where, **every)
    out['bucket'] = BucketPlan(lens, KEYS, bs, **every)
    out['bucket_drop_last'] = BucketPlan(lens, KEYS, bs, drop_last=True, where=where, **every)
    out['bucket_of_each'] = BucketPlan(lens, None, bs, Mix(repeat=2), **every)
    out['runs'] = RunPlan(lens, KEYS, bs)
    return out


def plan_cases(n):
    "Return two epochs of every plan over `n` rows"
    return {f'{name} {n}': [pin_epoch(plan.many(e, 0, len(plan))) for e in (0, 1)] for name, plan in plans(n).items()}


def shard_cases(n):
    "Return what each of three processes is given by plans of several kinds, in epoch 1"
    made, out = plans(n), {}
    for name in ('shuffled', 'mix_equal', 'mix_stratified', 'bucket', 'weighted', 'stratified'):
        batches = made[name].many(1, 0, len(made[name]))
        for rank in range(3):
            for drop in (False, True):
                parts = [own for b in batches for own, *_ in Shard(rank, 3, drop)(b)]
                out[f'{name} {n} rank {rank} of 3{" without the rest" if drop else ""}'] = pin_epoch(parts)
    return out


# Loaders


class Added(RandTransform):
    "Add one whole number drawn by torch, one by numpy and one by Python to a batch"

    split_idx = 0

    def encodes(self, x: torch.Tensor):
        if not x.is_floating_point():
            return x
        return x + int(torch.randint(1000, ())) + 1000 * int(np.random.randint(1000)) + 1_000_000 * random.randrange(10)


def meta(n, steps=2):
    lens, y = lens_of(n), np.array(list('abcd'))[classes_of(n)]
    ends = np.cumsum(lens)
    data = {f'd{k}': (np.zeros((m, 1, steps), np.float32), y[e - m : e]) for k, (m, e) in enumerate(zip(lens, ends))}
    return TSMetaDataset(data, vocab=list('abcd'), info=dict(site=[f's{k}' for k in KEYS]))


LOADERS = dict(
    in_order=dict(),
    shuffled=dict(shuffle=True),
    within=dict(shuffle='within'),
    block=dict(shuffle=('block', 100)),
    drop_last=dict(shuffle=True, drop_last=True),
    mix=dict(shuffle=True, mix='equal'),
    mix_by_name=dict(shuffle=True, mix=Mix({'d3': 2, 'd5': 1}, batching='stratified')),
    balanced=dict(shuffle=True, weights='balanced'),
    partial=dict(shuffle=True, partial_n=0.3),
    stratify=dict(shuffle=True, stratify=True),
    per_dataset=dict(shuffle=True, batching='per_dataset'),
    site=dict(shuffle=True, batching='site'),
    site_in_order=dict(batching='site'),
    rank_1_of_2=dict(shuffle=True, rank=1, world_size=2),
    mix_rank_0_of_2=dict(shuffle=True, mix='equal', rank=0, world_size=2),
)


def ids_of(dl, epochs=2):
    return [pin_epoch([dl.ids.copy() for _ in dl]) for _ in range(epochs)]


def loader_cases(n):
    "Return the global ids that loaders deliver in two epochs, of a metadataset and of the start of each dataset"
    whole, out, bs = meta(n), {}, 2 if n < 64 else 64
    train = whole.split(EachSplitter(0.25)).train if n > 64 else whole
    for name, how in LOADERS.items():
        for part, ds in dict(whole=whole, train=train).items():
            if part == 'train' and ds is whole:
                continue
            out[f'{name} {part} {n}'] = ids_of(TSMetaDataLoader(ds, bs=bs, seed=5, device='cpu', **how))
    return out


def cropped(n=60):
    data = {f'd{k}': np.zeros((n // 3, 1, 20 + 7 * k), np.float32) for k in range(3)}
    return TSMetaDataset(data, ragged=Ragged('crop', len=15, side='random'))


def drawn_by_loaders():
    "Return random crops, augmentations and an order of items that loaders draw"
    dl = TSMetaDataLoader(cropped().split('train', leak='allow').train, bs=8, shuffle=True, seed=3, device='cpu')
    crops = [np.concatenate([dl.where[['row', 'start', 'end']].to_numpy() for _ in dl]) for _ in range(2)]
    noise = TSMetaDataLoader(
        meta(400).split('train', leak='allow').train, bs=64, shuffle=True, seed=3, batch_tfms=Added(), device='cpu'
    )
    added = [[float(x[0, 0, 0]) for x, _ in noise] for _ in range(2)]
    items = TSMetaDataLoader(meta(400), bs=64, shuffle=True, seed=3, device='cpu').shuffle_fn(np.arange(400))
    return dict(
        crops=[pin(c) for c in crops], added_to_batches=[pin(np.array(a)) for a in added], shuffled_items=pin(items)
    )


# Numbers


def drawn(*key):
    "Return what the global generators of Python, numpy and torch give in a keyed block"
    with keyed(*key):
        return [
            random.getrandbits(32),
            *np.random.randint(1 << 31, size=2).tolist(),
            *torch.randint(1 << 31, (2,)).tolist(),
        ]


def seeded(key):
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        seed_globals(key)
        return [
            random.getrandbits(32),
            *np.random.randint(1 << 31, size=2).tolist(),
            *torch.randint(1 << 31, (2,)).tolist(),
        ]
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def number_cases():
    "Return hashes, permutations and keyed draws"
    parts = [(), (0,), (1,), (-2,), (0, 0), (1, 2, 3), (3, 2, 1), (2**63, 7), (-1, -1), (70_000, 11, 1, 9)]
    out = {
        'hash64': {repr(p): hex(hash64(*p)) for p in parts},
        'mix64': {str(x): hex(mix64(x)) for x in (0, 1, 2, 2**32, 2**64 - 1, 123456789)},
    }
    for n in (1, 2, 3, 5, 1_000, 5_000, 65_535, 70_000):
        out[f'permute {n}'] = pin(permute(np.arange(n), n, perm_keys(n, 11, 1)))
    far = np.arange(40) * (2**40 // 41)
    out['permute 2**40'] = pin(permute(far, 2**40, perm_keys(2**40, 11, 1)))
    out['perm_keys'] = {str(n): [hex(int(k)) for k in perm_keys(n, 11, 1)] for n in (5, 5_000, 70_000)}
    ids = np.concatenate([np.arange(100), 2**40 + np.arange(100)])
    out['keyed_numbers'] = pin(keyed_numbers(ids, hash64(3, 1, -2)))
    out['keyed_number'] = pin([int(keyed_number(i, np.uint64(hash64(3, 1, -2)))) for i in (0, 1, 99, 2**40)])
    out['uniform'] = pin(uniform(np.arange(5_000), 5_000, 11, 1))
    out['keyed'] = {repr(k): drawn(*k) for k in [(0, 0, 0), (3, 1, 4), (3, 1, 4, 1), (2**40, 5, 2, -1)]}
    out['keyed_rng'] = {repr(k): keyed_rng(k).integers(1 << 40, size=4).tolist() for k in [(0, 0), (3, 1, 2, 0, 7)]}
    out['seed_globals'] = {repr(k): seeded(k) for k in [(0, 0), (3, 1, 2, 0, 7)]}
    return {**out, **drawn_by_loaders()}


# Splits


class Wards:
    "Forty datasets of several sizes with classes, sites and persons, none of them drawn at random"

    lens = np.array([3 + k * k % 17 for k in range(40)])
    y = np.array(list('abc'))[(np.arange(lens.sum()) ** 2 // 7) % 3]


def wards():
    ends = np.cumsum(Wards.lens)
    data = {
        f'ward-{k}': (np.zeros((m, 1, 2), np.float32), Wards.y[e - m : e])
        for k, (m, e) in enumerate(zip(Wards.lens, ends))
    }
    return TSMetaDataset(
        data,
        info=pd.DataFrame(dict(site=[f's{k % 9}' for k in range(40)], sex=[['f', 'm'][k % 3 > 0] for k in range(40)])),
    )


SPLITTERS = dict(
    holdout=HoldoutSplitter(),
    holdout_seed_1=HoldoutSplitter(seed=1),
    holdout_test=HoldoutSplitter(0.2, 0.1, seed=7),
    holdout_counts=HoldoutSplitter(5, 3, seed=2),
    holdout_groups=HoldoutSplitter(0.3, 0.2, groups='site', seed=4),
    holdout_classes=HoldoutSplitter(0.25, stratify=True, seed=4),
    holdout_sex=HoldoutSplitter(0.25, 0.1, stratify='sex', seed=4),
    holdout_site_and_sex=HoldoutSplitter(2, groups='site', stratify=True, seed=9),
    holdout_named=HoldoutSplitter(['ward-3', 'ward-11'], 0.1, seed=4),
    each=EachSplitter(0.2, 0.1),
    each_gap=EachSplitter(2, gap=1),
    walk_forward=WalkForwardSplitter(2, 0.2),
    walk_anchored=WalkForwardSplitter(2, 1, 1, anchored=True),
    k_fold=SklearnSplitter(KFold(4, shuffle=True, random_state=3)),
)
SPECS = ['train[:30%]', 'train[30%:]', 'train[5:-7]', 'train[:10]+train[20:22]']
EACH = ['train[:30%]', 'train[30%:]', 'train[1:-1]']


def split_cases():
    "Return the rows of every subset of splitters, specs and shares"
    ds, out = wards(), {}
    for name, splitter in SPLITTERS.items():
        for fold, parts in enumerate(splitter.folds(ds)):
            out |= {f'{name} fold {fold} {part}': pin(view.ids()) for part, view in parts.asdict().items()}
    for spec in SPECS:
        out[spec] = pin(ds.select(spec).ids())
    for spec in EACH:
        out[f'{spec} of each'] = pin(ds.select(spec, per='dataset').ids())
    for drop in (False, True):
        for k, share in enumerate(even_splits('train[:90%]', 4, drop)):
            out[f'even_splits {k} of 4{" equal" if drop else ""}'] = pin(ds.select(share).ids())
    out['split_for_process'] = pin(ds.select(split_for_process('train', 1, 3)).ids())
    return out


# Streams


def number(b, rng):
    return {**b, 'x': rng.integers(1 << 30, size=len(b['x']))}


def streamed(stream, column='x', epochs=2):
    return [pin(np.concatenate([b[column] for b in stream])) for _ in range(epochs)]


def stream_cases():
    "Return the order of streams, and random numbers that belong to their items"
    columns, out = dict(x=np.arange(500), y=classes_of(500)), {}
    for name, how in dict(
        random=dict(), replacement=dict(n=700), balanced=dict(n=320), subset=dict(rows=scattered(500)[:90])
    ).items():
        out[f'sampler {name}'] = streamed(Stream.of(columns, seed=6).sampler(name, **how).batch(32))
        out[f'positions {name}'] = [pin(Sampler(name, seed=6, **how).positions(500, e, columns)) for e in (0, 1)]
    out['shuffle buffer'] = streamed(Stream.of(columns, seed=6).shuffle(50).batch(32))
    out['shuffle buffer with a seed'] = streamed(Stream.of(columns, seed=6).shuffle(20, seed=1).shuffle(7).batch(32))
    out['max_samples'] = streamed(Stream.of(columns, seed=6).sampler('random').batch(32).max_samples(180), epochs=4)
    out['rng of items'] = streamed(Stream.of(columns, seed=6).batch(32).map(number))
    out['rng of items after shuffle'] = streamed(Stream.of(columns, seed=6).batch(32).shuffle(4).map(number))
    out['subsample'] = streamed(Stream.of(columns, seed=6).batch(32).subsample(60), epochs=1)
    for name in ('shuffled', 'mix_by_name', 'balanced', 'rank_1_of_2', 'site'):
        out[f'metadataset {name}'] = streamed(meta(500).stream(bs=32, seed=6, **LOADERS[name]), 'sample_uid')
    return out


FILES = {f'orders-{n}.json': lambda n=n: plan_cases(n) for n in SIZES} | {
    'shards.json': lambda: {k: v for n in SIZES[:2] for k, v in shard_cases(n).items()},
    'loaders.json': lambda: {k: v for n in SIZES[:2] for k, v in loader_cases(n).items()},
    'numbers.json': number_cases,
    'splits.json': split_cases,
    'streams.json': stream_cases,
}

if __name__ == '__main__':
    for name, make in FILES.items():
        write(name, make())

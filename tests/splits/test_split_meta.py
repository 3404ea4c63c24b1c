"Splits of a real metadataset: recordings, parts of it, pictures"
import matplotlib
import numpy as np, pytest
from matplotlib.colors import to_rgb
from tsmeta.splits.leakage import check_leakage, purge
from tsmeta.data.dataset import TSMetaDataset
import tsmeta.data.dataset
from tsmeta.splits.leakage import COLORS, show_splits
from tsmeta.splits.splits import Splits, select
from tsmeta.splits.splitters import EachSplitter, HoldoutSplitter, SklearnSplitter, WalkForwardSplitter
from tsmeta.splits.splits import DataLayout, as_splits, describe

@pytest.fixture(autouse=True)
def no_window():
    before = matplotlib.get_backend()
    matplotlib.use('Agg')
    yield
    matplotlib.pyplot.close('all')
    matplotlib.use(before)

@pytest.fixture
def meta():
    rng, steps = np.random.default_rng(0), [300, 240, 180, 90]
    recordings = {f'watch{i}': rng.normal(size=(3, n)).astype('float32') for i, n in enumerate(steps)}
    return TSMetaDataset.from_recordings(recordings, window=20, stride=5, y=['rest', 'walk', 'rest', 'walk'], info=dict(person=['ann', 'ann', 'bob', 'cat']))

def steps(meta, view):
    "The time steps a view covers"
    ds, rows = meta.index.locate(view.ids())
    return {(d, r*5 + k) for d, r in zip(ds.tolist(), rows.tolist()) for k in range(20)}

def test_windows_share_no_step(meta):
    for splitter in (EachSplitter(.2), EachSplitter(.2, .1, gap=7), WalkForwardSplitter(2, .2), HoldoutSplitter(1, 1, groups='person')):
        parts = splitter(meta)
        held = [steps(meta, v) for v in parts]
        assert all(len(h) for h in held) and sum(map(len, held)) == len(set.union(*held))
    assert 'rest' in repr(parts) and 'walk' in repr(parts)
    leaky = as_splits([select(Splits(meta), s, per='dataset') for s in ('train[:80%]', 'train[80%:]')], meta)
    clean, dropped = purge(meta, leaky)
    assert dropped.name.tolist() == meta.names and not steps(meta, clean['train']) & steps(meta, clean['valid'])
    assert list(describe(meta, leaky).columns) == ['rows', 'datasets', 'share of rest', 'share of walk']

def test_a_part_is_split_in_ids_of_the_whole(meta):
    train = meta.part(HoldoutSplitter(['ann'], groups='person')(meta)['train'])
    allowed = set(train.ids().tolist())
    for splitter in (EachSplitter(.25), HoldoutSplitter(1), lambda m: (range(5), [-1, -2])):
        a, b = as_splits(splitter, train).values()
        assert set(a) | set(b) <= allowed and not set(a) & set(b) and len(a) and len(b)
    assert len(check_leakage(train, EachSplitter(.25))) == 0
    assert list(as_splits('train[:3]', train)['train']) == train.ids()[:3].tolist()
    mixed = meta.part(np.random.default_rng(1).permutation(len(meta)))
    assert [list(v) for v in EachSplitter(.2)(mixed)] == [list(v) for v in EachSplitter(.2)(meta)]
    assert list(as_splits([[0, 1]], mixed)['train']) == mixed.ids()[:2].tolist()

def test_duplicates_are_read_from_the_data(meta):
    x = np.random.default_rng(0).normal(size=(30, 2, 8)).astype('float32')
    copies = TSMetaDataset([(x, None), (x[5:8], None)])
    report = check_leakage(copies, [range(30), range(30, 33)], duplicates=True)
    assert report[['shared', 'rows', 'datasets']].values.tolist() == [['duplicates', 3, 1]]
    held = copies.part(range(4, 33))
    assert check_leakage(held, [range(26), range(26, 29)], duplicates=True).rows.tolist() == [3]

# Pictures

def pixels(ax): return ax.images[0].get_array()

def test_a_picture_shows_every_row(meta):
    parts = EachSplitter(.2, .1)(meta)
    image = pixels(show_splits(meta, parts))
    assert image.shape[0] == 4
    for d, n in enumerate(meta.lens):
        for s, v in dict(parts.asdict(), purged=parts.purged).items():
            ds, rows = meta.index.locate(v.ids())
            for r in rows[ds == d]: np.testing.assert_allclose(image[d, int((r + .5) * 600 / meta.lens.max())], to_rgb(COLORS[s]), atol=.01)

@pytest.mark.parametrize('n', [1, 3, 40, 41, 400, 3000, 20_000])
def test_pictures_of_any_number_of_datasets(n):
    lens = np.random.default_rng(0).integers(0, 1000, n)
    many = DataLayout(lens)
    splits = [range(len(many.index)//2), range(len(many.index)//2, len(many.index)*3//4)]
    ax = show_splits(many, splits)
    image = pixels(ax)
    assert image.shape[0] == min(n, 400) and np.isfinite(image).all()
    drawn = (1 - image).sum((1, 2)) @ np.bincount(np.arange(n) * image.shape[0] // n)
    want = sum((1 - np.array(to_rgb(COLORS[s]))).sum() * k for s, k in zip(['train', 'valid', 'unused'], [len(splits[0]), len(splits[1]), len(many.index) - len(splits[0]) - len(splits[1])]))
    assert drawn == pytest.approx(want * 600 / max(1, lens.max()), rel=.02)

def test_colors_differ_in_lightness():
    light = {s: np.dot(to_rgb(c), [.2126, .7152, .0722]) for s, c in COLORS.items()}
    values = sorted(light.values())
    assert min(np.diff(values)) > .05 and light['train'] > light['test']

def test_pictures_of_arrays(): assert len(show_splits(np.zeros((50, 1, 3)), EachSplitter(.2)(np.zeros((50, 1, 3)))).get_legend().get_texts()) == 2

"Ask TensorFlow Datasets what several hundred split specs mean and keep its answers: `python scripts/tfds_oracle.py` where tensorflow-datasets is installed."
import json, random
from pathlib import Path

SIZES = dict(train=[200], test=[101], val=[8, 8, 7, 7], odd=[57], large=[40_000, 0, 41_234, 42_223], none=[0], huge=[2**60])
SMALL = [s for s in SIZES if s != 'huge']
GOLDEN = Path(__file__).parents[1]/'tests'/'golden'/'tfds_splits.json'

WRONG = ['', '+', 'train+', '+train', 'train++test', ' train', 'train ', 'train[]', 'train[:]', 'train[5]', 'train[5%]', 'train[:5:2]', 'train[::]', 'train[ :5]', 'train[:5 ]',
    'train [:5]', 'train[:5', 'train:5]', 'train[:5]test', 'train[:1.5]', 'train[a:]', 'train[:5%%]', 'train[:5 %]', 'train[1e1%:]', 'train[--5:]', 'val[:1.5shard]', 'train[:300]',
    'train[-300:]', 'train[300:]', 'train[:120%]', 'train[:-120%]', 'nope', 'nope[:5]', 'tra in', 'all[:10]', 'all[:10%]', 'train[:5%](closest)', 'train[,5]', 'train[:5][:2]', '[:5]']

DIFFERENT = {
    '-p% is the bound of (100-p)%, so that two halves always part the data': ['test[-50%:]', 'test[:-50%]', 'test[-50%:-10%]'],
    'a negative percentage that rounds to no row is the end': ['val[44%:-1%]', 'val[:-1%]', 'val[-1%:]'],
    'percentages are exact where floating point is not': ['huge[:33%]', 'huge[1%:99%]', 'huge[:33.3%]'],
    'an empty stretch of shards is empty': ['val[:0shard]', 'val[0shard:0shard]'],
    'a shard beyond the count is an error': ['val[5shard]', 'val[:9shard]', 'val[4shard]', 'val[-5shard]', 'val[-9shard:]'],
    'reversed bounds are an error': ['train[50:20]', 'train[60%:40%]', 'val[3shard:1shard]', 'train[-20:-50]'],
    'two units in one slice are an error': ['train[10:50%]', 'train[3%:2shard]', 'val[1shard:50%]'],
    'a zero takes the unit of the other bound': ['train[0shard:50]', 'train[0shard:50%]'],
    'no newline after a spec': ['train[:5]\n'],
    'digits are 0 to 9': ['train[５:]'],
}

def random_specs(n=420, seed=0):
    "Specs that mean the same in both, drawn with a fixed seed"
    rnd, out = random.Random(seed), set()
    def component():
        s, unit = rnd.choice(SMALL), rnd.choice(['', '', '%', '%', 'fraction', 'shard', 'plain'])
        rows, shards = sum(SIZES[s]), len(SIZES[s])
        if unit == 'plain': return s
        if unit == 'shard' and rnd.random() < .3: return f'{s}[{rnd.randrange(shards)}shard]'
        top = dict(shard=shards, fraction=100).get(unit, 100 if unit == '%' else rows)
        draw = (lambda: round(rnd.uniform(0, 100), rnd.choice([1, 2, 3]))) if unit == 'fraction' else lambda: rnd.randint(int(unit == 'shard'), top)
        suffix = '%' if unit == 'fraction' else unit
        def write(v):
            unlike = suffix == '%' and ((v*rows / 100) % 1 == .5 or (100-v)*rows < 51) # such specs are in DIFFERENT
            return f'{round(v - top, 3) if rnd.random() < .3 and 0 < v < top and not unlike else v}{suffix}'
        (a, b), side = sorted([draw(), draw()]), rnd.randint(0, 2)
        return f'{s}[{write(a) if side != 0 else ""}:{write(b) if side != 1 else ""}]'
    while len(out) < n: out.add(rnd.choice(['+', ' + ', ' +', '+ ']).join(component() for _ in range(rnd.choice([1, 1, 1, 2, 3]))))
    return sorted(out) + ['all', 'all+train', 'train+train', 'train[0:0]', 'train[200:]', 'train[:-0]', 'train[-0:]', 'test[49%:50%]', 'train[1_0:]', 'train[:.5%]', 'train[:5.%]',
        'val[-1shard]', 'val[-4shard]', 'train[0:50%]', 'train[0%:100%]']

def questions():
    "Everything that is asked, by kind"
    bounds = [(None, 5), (-5, None), (5, None), (None, 100), (None, -5), (10, -10), (-10, -5), (0, 0), (100, None), (-100, None)]
    shared = ['train', 'test[:50%]', 'val', 'odd[10:]', 'large[5%:-5%]', 'none', 'val[1shard:]']
    return dict(same=random_specs(), wrong=WRONG, different=[s for specs in DIFFERENT.values() for s in specs], pct1=[(s, *b) for s in SMALL for b in bounds],
        even=[(s, n, drop) for s in shared for n in (1, 2, 3, 7, 40) for drop in (False, True)])

def held_splits():
    "The splits of the questions, as TensorFlow Datasets holds them"
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.splits import SplitDict, SplitInfo
    def info(name):
        template = tfds.core.ShardedFileTemplate(data_dir='/data', dataset_name='x', filetype_suffix='tfrecord', split=name)
        return SplitInfo(name=name, shard_lengths=SIZES[name], num_bytes=0, filename_template=template)
    return SplitDict([info(n) for n in SIZES])

def absolute(instruction, held):
    "`[[split, start, stop], …]` of an instruction, or None where it is refused"
    from tensorflow_datasets.core.splits import ReadInstruction
    try:
        if isinstance(instruction, str): instruction = ReadInstruction.from_spec(instruction)
        return [[a.splitname, a.from_ or 0, sum(SIZES[a.splitname]) if a.to is None else a.to] for a in instruction.to_absolute(held)]
    except (ValueError, RuntimeError, AssertionError): return None

def files(held, spec):
    "`[shard, skip, take]` of each file a spec reads"
    return [[int(str(f.filename).rsplit('-', 3)[1]), f.skip, f.examples_in_shard - f.skip if f.take == -1 else f.take] for f in held[spec].file_instructions]

def answers():
    "The answers of TensorFlow Datasets to all questions"
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.splits import ReadInstruction
    held, ask = held_splits(), questions()
    out = {kind: [[s, absolute(s, held)] for s in ask[kind]] for kind in ('same', 'wrong', 'different')}
    out['pct1'] = [[[s, a, b], absolute(ReadInstruction(s, from_=a, to=b, unit='%', rounding='pct1_dropremainder'), held)] for s, a, b in ask['pct1']]
    out['even'] = [[[s, n, drop], [absolute(e, held) for e in tfds.even_splits(s, n, drop_remainder=drop)]] for s, n, drop in ask['even']]
    out['files'] = [[s, files(held, s)] for s, a in out['same'] if '+' not in s and s != 'all' and any(hi > lo for _, lo, hi in a)]
    return json.loads(json.dumps(out))

if __name__ == '__main__':
    got = answers()
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text('{\n' + ',\n'.join(f'"{k}": [\n' + ',\n'.join(json.dumps(x) for x in v) + '\n]' for k, v in got.items()) + '\n}\n')
    print({k: len(v) for k, v in got.items()})

"Functions that process workers can import, and helpers of the stream tests."
import ctypes, faulthandler, os, random, signal, sys, time
import numpy as np

def identity(item): return item
def double(item): return item * 2
def half_steps(item): return [item, item + .5]
def uneven(item):
    time.sleep(.008 if item % 5 == 0 else .0005)
    return item
def numbered_rng(item, rng): return item, float(rng.random())
def global_rng(item): return [[random.random(), float(np.random.rand())]]
def fan_or_skip(item): return [item] * (item % 3) if item % 4 else None
def generator(item): yield from (item, None, item + .5)
def fail_at_7(item):
    if item == 7: raise LookupError('bad item seven')
    return item
def fail_always(item): raise KeyError('never')
def fail_odd(item):
    if item % 2: raise ValueError(f'odd {item}')
    return item
class Awkward(Exception):
    "An error that cannot be unpickled"
    def __init__(self, a, b): super().__init__(f'{a}-{b}')
def fail_awkwardly(item): raise Awkward(1, 2)
def say_stop(item): raise StopIteration
def leave(item): sys.exit(3)
def kill_at_5(item):
    if item == 5: os.kill(os.getpid(), signal.SIGKILL)
    return item
def exit_at_5(item):
    if item == 5: os._exit(7)
    return item
def crash_at_5(item):
    if item == 5:
        faulthandler.disable()
        ctypes.string_at(0)
    return item
def slow_at_3(item):
    if item == 3: time.sleep(1.05)
    return item
def hang(item): time.sleep(60)
def five_ms(item):
    time.sleep(.005)
    return item
def scale_in_place(batch):
    batch['x'] *= 2
    batch['new'] = batch['x']
    return batch
def with_pid(item): return [(os.getpid(), item)]
def add_noise(batch, rng): return dict(batch, x=batch['x'] + rng.normal(size=batch['x'].shape))
def spread_rows(batch): return [{k: v[:i + 1] for k, v in batch.items()} for i in range(len(batch['x']))]
def big(item): return dict(x=np.full(item, 1.5), sample_uid=np.arange(item))
def unpicklable_result(item): return lambda: item
def same(a, b):
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b)
def add_pair(item, rng): return [(*np.atleast_1d(item).tolist(), rng.random())] if not isinstance(item, tuple) else [(*item, rng.random())]
def print_nothing(item): return None
def torch_work(item):
    import torch
    return float((torch.rand(200, 200) @ torch.rand(200, 200)).sum())
def fail_from_8(item):
    if item >= 8: raise ValueError(f'too large: {item}')
    return item
def with_pid_column(b): return {**b, 'pid': np.full(len(b['x']), os.getpid())}

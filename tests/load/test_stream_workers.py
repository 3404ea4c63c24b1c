"Streams with workers: order, errors, deaths, stalls, endings, random numbers."
import gc, json, logging, multiprocessing, os, pathlib, random, signal, subprocess, sys, textwrap, threading, time, weakref
from collections import Counter
import numpy as np, pytest
from queue import SimpleQueue
from tsmeta.load.stages import Run
from tsmeta.load.workers import END, Job, ProcessPool, Slots, WorkerDied
from tsmeta.load.workers import worker_context
from tsmeta.load.stream import Stream
from stream_tools import *

BOTH = [('thread', 1), ('thread', 2), ('thread', 4), ('process', 1), ('process', 2), ('process', 4)]
methods = [m for m in ('fork', 'forkserver', 'spawn') if m in multiprocessing.get_all_start_methods()]
def src(n=20): return Stream.of(range(n), seed=1)
def wait_for(condition, seconds=5):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited too long'
        time.sleep(.01)
def children(): return {p.pid for p in multiprocessing.active_children()}

@pytest.fixture(autouse=True)
def no_leftovers():
    before = children()
    yield
    wait_for(lambda: gc.collect() is not None and children() <= before)
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == 'tsmeta-pump' and t.is_alive()])

# --- order

@pytest.mark.parametrize('worker,n', BOTH)
def test_ordered_and_equal_for_any_workers(worker, n):
    with src().map([uneven, half_steps], num_workers=n, worker=worker) as s:
        for _ in range(2): assert list(s) == [v for i in range(20) for v in (i, i + .5)]

@pytest.mark.parametrize('worker', ['thread', 'process'])
def test_out_of_order_has_the_same_items(worker):
    with src().map([uneven, half_steps], num_workers=2, worker=worker, in_order=False) as s:
        for _ in range(2): assert Counter(s) == Counter(v for i in range(20) for v in (i, i + .5))

@pytest.mark.parametrize('method', methods)
def test_all_start_methods(method):
    batches = [dict(x=np.full((64, 5, 50), i, np.float32), sample_uid=np.arange(64) + i, name=['a'] * 64) for i in range(8)]
    with Stream.of(batches, seed=0).map(add_noise, num_workers=2, start_method=method) as s:
        assert same(list(s), list(Stream.of(batches, seed=0).map(add_noise)))

def test_two_stages_and_two_iterators():
    with src(12).map(uneven, num_workers=2).map(half_steps, num_workers=2, worker='thread').map(double, num_workers=1) as s:
        want = [v for i in range(12) for v in (2 * i, 2 * i + 1)]
        a, b = iter(s), iter(s)
        got = [(next(a), next(b)) for _ in want]
        assert [x for x, _ in got] == [y for _, y in got] == want and not list(a) and not list(b)

@pytest.mark.parametrize('worker', ['thread', 'process'])
@pytest.mark.parametrize('options', [dict(), dict(max_in_flight=3), dict(prefetch=4)])
def test_the_source_is_not_read_further_ahead(worker, options):
    read = []
    def source():
        for i in range(60):
            read.append(i)
            yield i
    with Stream.of(source, seed=0).map(identity, num_workers=2, worker=worker, **options) as s:
        ahead = options.get('max_in_flight') or 2 * options.get('prefetch', 2)
        for n, _ in enumerate(s, 1):
            if n % 10 == 0: time.sleep(.02)
            assert len(read) <= n + ahead

def test_breaking_off_leaves_nothing():
    for options in (dict(worker='thread'), dict(worker='process'), dict(worker='thread', in_order=False)):
        with src().map(uneven, num_workers=2, **options).batch(2) as s:
            for _ in range(3):
                for n, _ in enumerate(s):
                    if n == 1: break
                assert sorted(sum(s, [])) == list(range(20))

def test_a_lost_iterator_ends_its_work():
    s = src(1000).map(uneven, num_workers=2, worker='thread')
    it = iter(s)
    next(it)
    assert s.has_background_jobs()
    del it
    wait_for(lambda: not s.has_background_jobs())

# --- errors

@pytest.mark.parametrize('worker,n', [('process', 0), *BOTH[1:2], *BOTH[4:5]])
def test_errors_have_type_traceback_and_item(worker, n):
    s, got = src().map(fail_at_7, num_workers=n, worker=worker), []
    with pytest.raises(LookupError, match='bad item seven') as e:
        for i in s: got.append(i)
    assert got == list(range(7))
    assert 'item 7 of epoch 0 in .map(fail_at_7)' in e.value.__notes__
    import traceback
    assert 'in fail_at_7' in ''.join(traceback.format_exception(e.value))

def test_errors_name_the_rows():
    with pytest.raises(KeyError) as e: list(Stream.of(dict(x=np.arange(9)), seed=0).batch(4).map(fail_always, num_workers=1))
    assert 'sample_uid 0 … 3' in e.value.__notes__[0]

@pytest.mark.parametrize('worker', ['thread', 'process'])
def test_awkward_errors(worker):
    options = dict(num_workers=1, worker=worker)
    with pytest.raises(Awkward if worker == 'thread' else (Awkward, RuntimeError), match='1-2'): list(src().map(fail_awkwardly, **options))
    for fn, text in ((say_stop, 'StopIteration'), (leave, 'SystemExit')):
        with pytest.raises(RuntimeError, match=text): list(src().map(fn, **options))
        with pytest.raises(RuntimeError, match=text): list(src().map(fn))

def test_results_and_items_that_cannot_be_sent():
    with pytest.raises(TypeError, match="results of type .'function'. cannot be sent back.*worker='thread'"): list(src().map(unpicklable_result, num_workers=1))
    with pytest.raises(TypeError, match="worker='thread'"): list(Stream.of([threading.Lock()], seed=0).map(identity, num_workers=1))

def test_functions_that_cannot_be_sent_fail_at_map():
    def local(x): return x
    for fn in (lambda x: x, local, [identity, lambda x: x]):
        with pytest.raises(TypeError, match="cannot be sent to process workers.*worker='thread'"): src().map(fn, num_workers=1)
        assert len(list(src().map(fn, num_workers=1, worker='thread'))) == 20

@pytest.mark.parametrize('worker', ['thread', 'process'])
@pytest.mark.parametrize('n', [0, 2])
def test_skip_counts_reports_and_raises_if_all_fail(worker, n, caplog):
    s = src(9).map(fail_odd, num_workers=n, worker=worker, on_error='skip')
    assert list(s) == [0, 2, 4, 6, 8]
    assert "failed on 4 of 9 items of epoch 0: items 1, 3, 5, 7; the first with ValueError('odd 1')" in caplog.text
    assert [s.stats()['1 map(fail_odd)'][k] for k in ('in', 'out', 'failed', 'skipped')] == [9, 5, 4, 0]
    with pytest.raises(KeyError) as e: list(src(3).map(fail_always, num_workers=n, worker=worker, on_error='skip'))
    assert 'all of them' in e.value.__notes__[-1]

def test_an_error_of_the_source_comes_in_its_turn():
    def source():
        yield from range(5)
        raise OSError('disk gone')
    for options in (dict(num_workers=2, worker='thread'), dict(num_workers=2), dict()):
        got = []
        with pytest.raises(OSError, match='disk gone'):
            for i in Stream.of(source, seed=0).map(uneven, **options): got.append(i)
        assert got == list(range(5))

@pytest.mark.parametrize('options', [dict(), dict(num_workers=1, worker='thread'), dict(num_workers=1)])
@pytest.mark.parametrize('fn', [fail_at_7, unpicklable_result, half_steps])
def test_a_stream_that_failed_does_not_wait_for_the_garbage_collector(fn, options):
    def items():
        yield from range(9)
        raise OSError
    gc.collect()
    gc.disable()
    try:
        s = Stream.of(items, seed=0).map(fn, **options)
        gone = weakref.ref(s)
        with pytest.raises(Exception): list(s)
        del s
        wait_for(lambda: gone() is None, 1)
    finally: gc.enable()

# --- deaths

@pytest.mark.parametrize('method', methods)
@pytest.mark.parametrize('fn', [kill_at_5, exit_at_5, crash_at_5])
def test_a_dead_worker_is_an_error(fn, method):
    if method != 'fork' and fn is not kill_at_5: pytest.skip('once is enough')
    with src().map(fn, num_workers=2, start_method=method, on_error='skip') as s:
        got, it = [], iter(s)
        got.append(next(it))
        with pytest.raises(WorkerDied, match=rf'Worker [01] \(process \d+\) of \.map\({fn.__name__}\) (was killed by signal|ended with code 7) ?.*before it had made item 5 of epoch 0'):
            for i in it: got.append(i)
        assert got == list(range(len(got))) and len(got) <= 5

def test_a_death_noticed_while_reading_ahead_is_a_death_for_those_who_wait():
    pool, done = ProcessPool(exit_at_5, 1, worker_context(), look_ahead=2), SimpleQueue()
    pool.start()
    try:
        pool.submit(Job('first', done.put), 5)
        error = done.get(timeout=5).error
        assert isinstance(error, WorkerDied) and str(error).endswith('ended with code 7 before it had made first')
        with pytest.raises(WorkerDied): pool.submit(Job('second', done.put), 6)
        assert not pool.usable and done.empty()
    finally: pool.close()

def test_a_worker_killed_from_outside_and_the_epoch_after():
    with src(400).map([five_ms, with_pid], num_workers=2) as s:
        it = iter(s)
        pid, _ = next(it)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerDied): list(it)
        s.set_epoch(0)
        it = iter(s)
        assert [next(it)[1] for _ in range(5)] == list(range(5))
        it.close()

def test_workers_die_with_their_parent(tmp_path):
    script = tmp_path / 'parent.py'
    script.write_text(textwrap.dedent('''
        import os, sys, time
        from tsmeta.load.stream import Stream
        from stream_tools import with_pid, hang
        it = iter(Stream.of(range(100), seed=0).map(with_pid, num_workers=2).map(hang, num_workers=1))
        pids = [str(next(iter(Stream.of(range(9), seed=0).map(with_pid, num_workers=1)))[0])]
        s = Stream.of(range(9999), seed=0).map(with_pid, num_workers=2)
        pids += {str(p) for p, _ in zip((p for p, _ in s), range(200))}
        t = iter(s); next(t)
        print(*pids, flush=True)
        time.sleep(60)'''))
    p = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=script_env(), text=True)
    pids = [int(x) for x in p.stdout.readline().split()]
    p.kill()
    p.wait()
    wait_for(lambda: not any(alive(pid) for pid in pids[1:]))

def alive(pid):
    try: return 'Z' not in pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except OSError: return False

# --- stalls

@pytest.mark.parametrize('worker', ['thread', 'process'])
def test_a_stall_is_reported_and_waited_for(worker, caplog, capsys):
    with src(6).map(slow_at_3, num_workers=2, worker=worker, report_after=.3) as s: assert list(s) == list(range(6))
    reports = [r.getMessage() for r in caplog.records]
    assert 2 <= len(reports) <= 4 and all('for item 3 of epoch 0' in r and 'on item 3 for' in r for r in reports)
    assert capsys.readouterr().out == ''

def test_a_stalled_source_is_reported(caplog):
    def source():
        yield 0
        time.sleep(.5)
        yield 1
    assert list(Stream.of(source, seed=0).map(identity, num_workers=1, worker='thread', report_after=.2)) == [0, 1]
    assert 'no worker is busy; the source has been asked for item 1' in caplog.text

def test_a_timeout_raises_and_ends_the_workers():
    with src().map(hang, num_workers=2, timeout=.4) as s:
        with pytest.raises(TimeoutError, match=r"waited 0\.4 s for item 0 of epoch 0: .*process \d+ on item 0"): list(s)

# --- endings

def script_env(): 
    here = pathlib.Path(__file__).parents[1]
    return dict(os.environ, PYTHONPATH=os.pathsep.join([str(here.parent), str(here)]), PYTHONWARNINGS='default')

HEAD = '''
from tsmeta.load.stream import Stream
from stream_tools import five_ms, hang, identity, uneven
import time, sys, os
def job(x): return x
'''
ENDS = dict(
    normal='s = Stream.of(range(500), seed=0).map(five_ms, num_workers=2)\nit = iter(s)\nnext(it)',
    finished='print(len(list(Stream.of(range(50), seed=0).map(job, num_workers=2))))',
    threads='s = Stream.of(range(500), seed=0).map(five_ms, num_workers=2, worker="thread")\nit = iter(s)\nnext(it)',
    error='for x in Stream.of(range(500), seed=0).map(five_ms, num_workers=2): raise ValueError("mine")',
    hanging='s = Stream.of(range(9), seed=0).map([five_ms, hang], num_workers=2)\ntry: next(iter(s.map(identity, timeout=.2, num_workers=1, worker="thread")))\nexcept TimeoutError: pass',
    reservoir='s = Stream.of(range(9), seed=0).async_reservoir(4, five_ms, min_samples=2)\nit = iter(s)\nnext(it)',
    exit='s = Stream.of(range(500), seed=0).map(hang, num_workers=2)\nimport threading\ndef consume():\n    try: next(iter(s))\n    except ValueError: pass\nthreading.Thread(target=consume, daemon=True).start()\ntime.sleep(.5)\nsys.exit(0)')

def session_of(pid): return [p for p in pathlib.Path('/proc').glob('[0-9]*') if _session(p) == pid]
def _session(p):
    try:
        parts = (p / 'stat').read_text().rsplit(')', 1)[1].split()
        return int(parts[3]) if parts[0] != 'Z' else None
    except OSError: return None

@pytest.mark.skipif(not os.path.exists('/proc/self/stat'), reason='looks at /proc')
@pytest.mark.parametrize('name', ENDS)
def test_scripts_that_never_close_end_quickly(name, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(HEAD + ENDS[name])
    t = time.monotonic()
    p = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=script_env(), text=True, start_new_session=True)
    out, err = p.communicate(timeout=120)
    assert (p.returncode, 'ValueError: mine' in err) == ((1, True) if name == 'error' else (0, False)), err
    assert name == 'error' or not err, err
    wait_for(lambda: not session_of(p.pid), 2)

@pytest.mark.skipif(not os.path.exists('/proc/self/stat'), reason='looks at /proc')
@pytest.mark.parametrize('worker,fn', [('process', 'hang'), ('process', 'five_ms'), ('thread', 'five_ms')])
def test_ctrl_c(worker, fn, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(HEAD + f'print("go", flush=True)\nfor x in Stream.of(range(10**6), seed=0).map({fn}, num_workers=2, worker="{worker}"): pass')
    p = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=script_env(), text=True, start_new_session=True)
    p.stdout.readline()
    time.sleep(.6)
    os.killpg(p.pid, signal.SIGINT)
    t = time.monotonic()
    _, err = p.communicate(timeout=120)
    assert err.count('KeyboardInterrupt') == 1, err
    wait_for(lambda: not session_of(p.pid), 2)

@pytest.mark.parametrize('method', [m for m in methods if m != 'fork'])
def test_no_warnings_of_leaks_with_fresh_workers(method, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(HEAD + f'''
import numpy as np
def main():
    batches = [dict(x=np.zeros((64, 5, 50), np.float32))] * 6
    s = Stream.of(batches, seed=0).map(job, num_workers=2, start_method="{method}")
    print(len(list(s)))
    it = iter(s); next(it)
if __name__ == '__main__': main()''')
    r = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=script_env(), timeout=30)
    assert (r.stdout, r.stderr, r.returncode) == ('6\n', '', 0)

def test_close_is_final():
    s = src().map(hang, num_workers=2)
    it = iter(s)
    threading.Timer(.3, s.close).start()
    with pytest.raises(ValueError, match='closed'): next(it)
    wait_for(lambda: not multiprocessing.active_children())
    for use in (lambda: iter(s), lambda: s.batch(2), lambda: s.subsample(2), lambda: s.load_state_dict({})):
        with pytest.raises(ValueError, match='this stream is closed'): use()
    s.close()

def test_a_closed_stream_does_not_close_the_one_it_came_from():
    a = src().map(identity, num_workers=1, worker='thread')
    with a.batch(2) as b: list(b)
    assert list(a) == list(range(20))
    a.close()

def test_a_fork_of_the_consumer_does_not_end_the_workers():
    with src(50).map(identity, num_workers=1) as s:
        it = iter(s)
        next(it)
        p = multiprocessing.get_context('fork').Process(target=s.close)
        p.start()
        p.join()
        assert list(it) == list(range(1, 50))

# --- random numbers

def test_item_random_numbers_do_not_depend_on_workers():
    want = [list(src(8).map(numbered_rng)), None]
    flat = want[0][1::2]
    assert len(set(flat)) == 8
    for worker, n in BOTH:
        with src(8).map(numbered_rng, num_workers=n, worker=worker) as s:
            assert list(s) == want[0]
            assert not set(list(s)[1::2]) & set(flat)

def test_two_maps_and_two_seeds_draw_other_numbers():
    one, two = src(5).map(add_pair), Stream.of(range(5), seed=2).map(add_pair)
    assert list(one) != list(two)
    pairs = list(src(5).map(add_pair).map(add_pair, num_workers=1))
    assert all(a != b for _, a, b in pairs)

def test_global_generators_in_processes_are_keyed_and_left_alone():
    random.seed(5), np.random.seed(5)
    state, np_state = random.getstate(), np.random.get_state()[1].copy()
    want = list(src(8).map(global_rng))
    for n in (1, 3):
        with src(8).map(global_rng, num_workers=n) as s: assert list(s) == want
    assert len({tuple(w) for w in want}) == 8
    assert random.getstate() == state and np.array_equal(np.random.get_state()[1], np_state)

def test_torch_in_workers():
    torch = pytest.importorskip('torch')
    torch.manual_seed(0)
    before = torch.get_rng_state()
    (torch.rand(300, 300) @ torch.rand(300, 300)).sum()
    torch.set_rng_state(before)
    want = list(src(4).map(torch_work))
    with src(4).map(torch_work, num_workers=2, timeout=20) as s: assert np.allclose(list(s), want)
    assert torch.equal(torch.get_rng_state(), before)

# --- shared memory

@pytest.mark.parametrize('method', [m for m in methods if m != 'spawn'])
def test_sizes_around_the_slot(method):
    size = Slots(multiprocessing.get_context(method), 4).size // 8
    sizes = [0, 1, 511, 512, 600, size - 8, size, size + 8, 3]
    with Stream.of(sizes, seed=0).map(big, num_workers=2, start_method=method).map(identity, num_workers=2, start_method=method) as s:
        assert [len(b['x']) for b in s] == sizes[1:]

def test_received_arrays_are_ones_own():
    with Stream.of([dict(x=np.ones((64, 5, 50), np.float32))] * 12, seed=0).map(identity, num_workers=2) as s:
        kept = []
        for i, b in enumerate(s):
            b['x'] *= i
            kept.append(b['x'])
    assert [k.max() for k in kept] == list(range(12))

# --- reservoir

def test_the_reservoir_waits_replaces_and_is_fair():
    with src(20).async_reservoir(8, identity, min_samples=8, max_replacement=2, worker='thread') as s:
        first = list(s)
        assert first == list(range(8))
        counts, before = Counter(first), set(first)
        for _ in range(600):
            now = list(s)
            assert len(now) == 8 and len(set(now) - before) <= 2
            counts.update(now)
            before = set(now)
            time.sleep(.003)
    mean = sum(counts.values()) / 20
    assert all(abs(counts[i] / mean - 1) < .1 for i in range(20)), counts

def test_a_seeded_reservoir_is_fair_to_uneven_rows():
    with src(10).async_reservoir(4, uneven, min_samples=4, max_replacement=1, num_workers=2, seed=0, worker='thread') as s:
        counts = Counter()
        for _ in range(400):
            counts.update(s)
            time.sleep(.003)
    mean = sum(counts.values()) / 10
    assert all(abs(counts[i] / mean - 1) < .1 for i in range(10)), counts

def test_the_reservoir_snapshot_is_not_disturbed():
    data = [dict(x=np.full(3, float(i))) for i in range(6)]
    with Stream.of(data, seed=0).async_reservoir(3, identity, min_samples=3, worker='thread').map(scale_in_place, worker='thread') as s:
        for _ in range(20): assert all(b['x'][0] <= 10 for b in s)
    with pytest.raises(ValueError, match='has no state'): Stream.of(data, seed=0).async_reservoir(3).state_dict()

def test_reservoir_errors():
    with src().async_reservoir(4, fail_always) as s:
        with pytest.raises(KeyError) as e: list(s)
        assert 'async_reservoir(4, fail_always)' in e.value.__notes__[0]
    with Stream.of([], seed=0).async_reservoir(4) as s:
        with pytest.raises(ValueError, match='empty source'): list(s)
    with src().async_reservoir(4, print_nothing) as s:
        with pytest.raises(ValueError, match='nothing for a whole turn'): list(s)
    with src(30).async_reservoir(4, kill_at_5, min_samples=4) as s:
        with pytest.raises(WorkerDied):
            for _ in range(200):
                list(s)
                time.sleep(.01)

def test_fewer_rows_of_a_reservoir_are_each_computed_once():
    with src(20).async_reservoir(4, double, min_samples=2).subsample_uids([9, 3, 5]) as s: assert list(s) == [18, 6, 10]

# --- time

def test_workers_go_on_while_the_consumer_is_busy():
    done = []
    def note(i):
        done.append(i)
        return i
    with src(80).map(note, num_workers=2, worker='thread') as s:
        it = iter(s)
        assert next(it) == 0
        wait_for(lambda: len(done) > 2)
        assert list(it) == list(range(1, 80))

def test_statistics():
    s = src(10).map(five_ms, num_workers=1, worker='thread')
    for _ in s: time.sleep(.002)
    got = s.stats()['1 map(five_ms)']
    assert got['in'] == got['out'] == 10 and got['depth'] == 0
    assert got['wait_consumer'] > .015 and got['wait_workers'] > .015 and got['wait_source'] < .01


class _SlowPool:
    "A pool that is made, or starts, when the test lets it"
    def __init__(self, wait_in, reached, go_on):
        self.wait_in, self.reached, self.go_on, self.usable, self.running = wait_in, reached, go_on, True, False
        self._reach('made')
    def _reach(self, where):
        if where != self.wait_in: return
        self.reached.set()
        assert self.go_on.wait(30)
    def start(self):
        self._reach('start')
        self.running = True
    def close(self, grace=0): self.running = False

@pytest.mark.parametrize('wait_in', ['made', 'start'])
def test_a_stream_closed_while_its_workers_start_leaves_no_pool(wait_in, monkeypatch):
    import tsmeta.load.stages as stages
    reached, go_on, pools, errors = threading.Event(), threading.Event(), [], []
    def make(*args):
        pools.append(_SlowPool(wait_in, reached, go_on))
        return pools[0]
    monkeypatch.setattr(stages, 'make_pool', make)
    s = src().map(abs, num_workers=1, worker='thread')
    def consume():
        try: list(s)
        except ValueError as e: errors.append(str(e))
    t = threading.Thread(target=consume)
    t.start()
    assert reached.wait(30)
    s.close()
    go_on.set()
    t.join(30)
    assert not t.is_alive() and not pools[0].running and 'closed' in errors[0]

def test_calls_that_begin_in_a_closed_stream_end():
    "`close` comes between the start of the workers and that of the work"
    s = src().map(abs, num_workers=1, worker='thread')
    run, pool = Run(s.feed, s.stages, 0, s.resources), s.resources.pool(1, s.stages[0])
    s.resources.pool = lambda k, stage: (s.close(), pool)[1]
    calls = run.calls(1, s.stages[0], run.at(0)(0), 0)
    with pytest.raises(ValueError, match='closed'):
        while calls.take() is not END: pass

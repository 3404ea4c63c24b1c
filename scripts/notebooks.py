"Runs every notebook as a test, each in a process of its own: what one of them patches is not seen by the next."
import argparse
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

from layout import NBS, ROOT, notebooks

# Imported once, before the processes are forked: not torch, whose autograd engine hangs in forked processes
SHARED = ['matplotlib.pyplot', 'numba', 'pandas', 'scipy.stats', 'nbdev.test']


def run(path):
    "Run one notebook; the exit code of the process says whether it passed."
    from nbdev.test import test_nb
    os.chdir(path.parent)
    passed, _ = test_nb(path, do_print=False)
    sys.stdout.flush()
    os._exit(0 if passed else 1)


def run_all(paths, n_processes):
    "Run notebooks, some at a time; return the paths that failed and the seconds that each took."
    context, waiting, running, failed, seconds = multiprocessing.get_context('fork'), list(paths), {}, [], {}
    while waiting or running:
        while waiting and len(running) < n_processes:
            path = waiting.pop(0)
            process = context.Process(target=run, args=(path,))
            process.start()
            running[process.sentinel] = process, path, time.monotonic()
        for sentinel in wait(list(running)):
            process, path, start = running.pop(sentinel)
            process.join()
            seconds[path] = time.monotonic() - start
            if process.exitcode: failed.append(path)
    return failed, seconds


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument('paths', nargs='*', type=Path, help='notebooks; all of them if none is given')
    args.add_argument('--processes', type=int, default=2)
    args = args.parse_args()
    for name in SHARED: __import__(name)
    paths = [p.resolve() for p in args.paths] or notebooks()
    failed, seconds = run_all(paths, args.processes)
    slow = sorted(seconds, key=seconds.get)[:-6:-1]
    print('slowest:', ', '.join(f'{p.relative_to(NBS)} {seconds[p]:.0f} s' for p in slow))
    if failed: sys.exit('failed: ' + ', '.join(sorted(p.relative_to(ROOT).as_posix() for p in failed)))
    print(f'{len(paths)} notebooks passed.')


if __name__ == '__main__': main()

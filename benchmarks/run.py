"Run the benchmarks and write benchmarks/results: `python benchmarks/run.py [loaders] [parts] [training] [faults] [store]`"
import subprocess, sys, time
from pathlib import Path

HERE = Path(__file__).parent
ALL = 'loaders', 'parts', 'training', 'faults', 'store'


def main():
    names, start = sys.argv[1:] or ALL, time.perf_counter()
    if unknown := [n for n in names if n not in ALL]: sys.exit(f'No benchmark is called {unknown[0]!r}. There are {", ".join(ALL)}.')
    for name in names:
        print(f'\n=== {name} ===', flush=True)
        subprocess.run([sys.executable, '-W', 'ignore', HERE/f'{name}.py'], check=True)
    print(f'\nDone in {(time.perf_counter() - start)/60:.1f} minutes. Results: {HERE.name}/results', flush=True)


if __name__ == '__main__': main()

"Run the benchmarks and write benchmarks/results: `python benchmarks/run.py [loaders] [parts] [training] [faults] [split] [store] [stream] [workers] [order] [differ]`"
import subprocess, sys, time
from pathlib import Path

HERE = Path(__file__).parent
ALL = 'loaders', 'parts', 'training', 'faults', 'split', 'store', 'stream', 'workers', 'order', 'differ'
TITLES = dict(split='Splitting ten million rows in ten thousand datasets', store='Packing, opening and reading a store', stream='Background streams beside torch',
              workers='Workers of loaders beside torch', order='Order, mixing and resuming')


def keep(name, text):
    "Show what a benchmark printed, and store it beside the other results"
    print(text, flush=True)
    (HERE/'results'/f'{name}.md').write_text(f'# {TITLES[name]}\n\n```\n{text.strip()}\n```\n', encoding='utf-8')


def main():
    names, start = sys.argv[1:] or ALL, time.perf_counter()
    if unknown := [n for n in names if n not in ALL]: sys.exit(f'No benchmark is called {unknown[0]!r}. There are {", ".join(ALL)}.')
    for name in names:
        print(f'\n=== {name} ===', flush=True)
        command = [sys.executable, '-W', 'ignore', HERE/f'{name}.py']
        if name not in TITLES: subprocess.run(command, check=True)
        else: keep(name, subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(f'\nDone in {(time.perf_counter() - start)/60:.1f} minutes. Results: {HERE.name}/results', flush=True)


if __name__ == '__main__': main()

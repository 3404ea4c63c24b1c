"A small seeded part of `make fuzz`: files changed at random are read or refused by name."
import fuzz
import pytest


@pytest.mark.parametrize('name, n', [('npy', 60), ('npz', 60), ('zarr', 12), ('hdf5', 25), ('ts', 60), ('tsf', 60)])
def test_changed_files_are_read_or_refused_by_name(name, n):
    assert fuzz.fuzz(name, n, seed=1) == []


class Broken(fuzz.FileTarget):
    "A reader with each of the faults that are looked for"
    def __init__(self, fault): self.fault = fault
    def make(self, folder): pass
    def change(self, rng, folder): return folder/'x'
    def read(self, path): exec(self.fault)


@pytest.mark.parametrize('fault, kind', [
    ('1/0', 'opaque'), ('raise ValueError("no idea")', 'no name'), ('import os; os.abort()', 'crash'), ('while True: pass', 'hang'),
    ('x = bytearray(b"x")*(160 << 20)', 'memory')])
def test_each_kind_of_fault_is_seen(monkeypatch, fault, kind):
    monkeypatch.setattr(fuzz, 'SECONDS', 1.5)
    monkeypatch.setitem(fuzz.TARGETS, 'broken', Broken(f'if path.exists():\n {fault}\nelse: path.touch()'))
    assert [o[:2] for o in fuzz.fuzz('broken', 1, 0)] == [(0, kind)]

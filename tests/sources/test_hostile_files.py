"Files that were damaged, or made to harm: refused by name, without reading other files, waiting, or taking memory."
import io
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from tsmeta.sources.base import check_file, FileSource, library, NpyFile, npy_header, read_npy, shown_path
from tsmeta.sources.files import files_below, members, StoredSource

X = np.arange(40*2*10, dtype='f4').reshape(40, 2, 10)


def npy_bytes(header, data=b'', version=1):
    "Returns a .npy file with this text as its header"
    size = struct.pack('<H' if version == 1 else '<I', len(header))
    return b'\x93NUMPY' + bytes([version, 0]) + size + header.encode('latin1') + data


def head(shape, descr="'<f4'", order='False'): return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


HEADERS = dict(
    negative=head('(-1, 3)'), both_negative=head('(-2, -3)'), overflow=head(f'({2**40}, {2**40})'), huge=head(f'({2**70},)'),
    huge_beside_zero=head(f'(0, {2**62}, 5)'), truth=head('(True, 3)'), float=head('(2., 3)'), no_tuple=head('[2, 3]'),
    brackets='('*3000 + ')'*3000, unbalanced="{'descr': '<f4', 'shape': (", quote="{'descr': '<f4", text='hello', empty='',
    no_key="{'descr': '<f4'}", subarray=head('(2, 2)', "('<f4', (3,))"), fields=head('(2,)', "[('a', '<f4')]"),
    no_width=head('(2, 3)', "'S0'"), unknown=head('(2, 3)', "'<q9'"), deep=head('(' * 50 + '1,' + ')' * 50),
    many_axes=head('(' + '1, '*40 + ')'), names='__import__("os")', minus='-'*5000 + '1', lines=head('(2,\n 3)') + '\n\n(')


@pytest.mark.parametrize('version', [1, 2])
@pytest.mark.parametrize('name', HEADERS)
def test_damaged_headers_of_npy_files_are_refused_by_name(tmp_path, name, version):
    path = tmp_path/'bad.npy'
    path.write_bytes(npy_bytes(HEADERS[name], bytes(24), version))
    for door in (NpyFile, FileSource, npy_header, read_npy, lambda p: members(p.parent)):
        with pytest.raises((ValueError, TypeError), match='bad.npy'): door(path)


def test_objects_are_never_unpickled_and_short_files_are_named(tmp_path):
    np.save(tmp_path/'o.npy', np.array([dict(a=1)], object), allow_pickle=True)
    with pytest.raises(TypeError, match='o.npy holds Python objects'): npy_header(tmp_path/'o.npy')
    whole = io.BytesIO()
    np.save(whole, X)
    for n in [0, 5, 9, 11, 60, 127, 128, 200, len(whole.getvalue()) - 1]:
        (tmp_path/'s.npy').write_bytes(whole.getvalue()[:n])
        with pytest.raises(ValueError, match='s.npy'): npy_header(tmp_path/'s.npy')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes here')
@pytest.mark.parametrize('name', ['a.npy', 'a.npz', 'a.h5', 'a.ts', 'a.zarr/zarr.json', 'a.zarr/c/0/0/0', 'y.npy'])
def test_pipes_are_refused_without_waiting(tmp_path, name):
    path = tmp_path/name
    if 'zarr' in name: library('zarr').save_array(str(tmp_path/'a.zarr'), X)
    if name == 'y.npy': np.save(tmp_path/'X.npy', X)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    code = 'import sys; from tsmeta.sources.files import members\n' \
           'try: [s.read([0]) for s in members(sys.argv[1]).values()]\nexcept ValueError as e: print(e)'
    done = subprocess.run([sys.executable, '-c', code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert 'is a named pipe, not a file' in done.stdout and Path(name).name in done.stdout, done.stderr


def test_devices_and_folders_are_refused(tmp_path):
    (tmp_path/'d.npy').mkdir()
    with pytest.raises(ValueError, match='d.npy is a folder'): check_file(tmp_path/'d.npy')
    if os.path.exists('/dev/zero'):
        os.symlink('/dev/zero', tmp_path/'z.npy')
        for door in (check_file, NpyFile, read_npy):
            with pytest.raises(ValueError, match='z.npy is a device'): door(tmp_path/'z.npy')


def test_a_name_that_is_not_utf8_does_not_break_its_folder(tmp_path):
    name = os.fsdecode(b'caf\xe9.npy')
    try: np.save(os.path.join(tmp_path, name), X)
    except OSError: pytest.skip('this file system has no such names')
    np.save(tmp_path/'b.npy', X + 1)
    found = members(tmp_path)
    assert list(found) == ['b', 'caf\\xe9'] and len(files_below(tmp_path)) == 2
    assert np.array_equal(found['caf\\xe9'].read([3]), X[[3]])
    '\n'.join(found).encode()
    with open(os.path.join(tmp_path, name), 'ab') as f: f.write(b'more')
    with pytest.raises(ValueError, match=r'caf\\xe9.npy') as e: members(tmp_path)
    str(e.value).encode()
    assert shown_path('plain') == 'plain'


def npz(path, arrays, compress=zipfile.ZIP_DEFLATED):
    "Writes an archive of members given as bytes"
    with zipfile.ZipFile(path, 'w', compress) as z:
        for name, data in arrays.items(): z.writestr(f'{name}.npy', data)
    return path


def test_archives_are_read_as_numpy_reads_them(tmp_path):
    arrays = dict(X=X, f=np.asfortranarray(X), none=np.zeros((0, 2, 3)), y=np.array(list('ab')*20), one=np.float64(3))
    for save in (np.savez, np.savez_compressed):
        save(tmp_path/'a.npz', **arrays)
        from tsmeta.sources.files import CONTAINERS
        found = CONTAINERS['.npz'](tmp_path/'a.npz')
        assert list(found) == list(arrays)
        for k, a in arrays.items(): assert np.array_equal(found[k], a) and found[k].dtype == np.asarray(a).dtype
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        whole = io.BytesIO()
        np.save(whole, X)
        assert np.array_equal(StoredSource(npz(tmp_path/'b.npz', dict(X=whole.getvalue()), kind)).read([5]), X[[5]])


@pytest.mark.parametrize('shape', [(1 << 30, 2, 10), (1 << 38, 1, 1), (41, 2, 10), (39, 2, 10), (1 << 60, 1)])
def test_declared_sizes_are_checked_before_memory_is_taken(tmp_path, shape):
    path = npz(tmp_path/'bomb.npz', dict(X=npy_bytes(head(shape), X.tobytes())))
    with pytest.raises(ValueError, match='bomb.npz'): StoredSource(path)


def test_sizes_that_a_zip_file_cannot_have_are_refused(tmp_path):
    "The directory at the end of the file declares 8 GB, or members that overlap"
    whole = io.BytesIO()
    np.save(whole, np.zeros((2, 1, 4), 'f4'))
    data = bytearray(npz(tmp_path/'a.npz', dict(X=whole.getvalue())).read_bytes())
    at = data.index(b'PK\x01\x02')
    data[at + 24:at + 28] = struct.pack('<I', 0xf0000000)
    (tmp_path/'declared.npz').write_bytes(data)
    with pytest.raises(ValueError, match='declared.npz.*impossible'): StoredSource(tmp_path/'declared.npz')
    data[at + 20:at + 24] = struct.pack('<I', 0xf0000000)
    (tmp_path/'overlap.npz').write_bytes(data)
    with pytest.raises(ValueError, match='overlap.npz.*overlap'): StoredSource(tmp_path/'overlap.npz')


def test_every_cut_and_flipped_byte_of_an_archive_is_read_or_refused_by_name(tmp_path):
    np.savez_compressed(tmp_path/'a.npz', X=X[:4])
    data, rng = (tmp_path/'a.npz').read_bytes(), np.random.default_rng(0)
    for k in range(150):
        bad = bytearray(data)
        if k % 3: bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        else: bad = bad[:rng.integers(len(bad))]
        (tmp_path/'b.npz').write_bytes(bad)
        try: StoredSource(tmp_path/'b.npz').read([0])
        except (ValueError, TypeError) as e: assert 'b.npz' in str(e)


@pytest.fixture
def h5(tmp_path):
    "A file with everything that leads out of it, and what stays in it"
    h5py = library('h5py')
    with h5py.File(tmp_path/'other.h5', 'w') as f: f['X'] = X
    (tmp_path/'raw').write_bytes(X.tobytes())
    with h5py.File(tmp_path/'a.h5', 'w') as f:
        f['g/X'], f['g/y'] = X, np.arange(40)
        f['soft'], f['up'] = h5py.SoftLink('g/X'), h5py.SoftLink('/g')
        f['ext'], f['deep'] = h5py.ExternalLink('other.h5', '/X'), h5py.SoftLink('/ext')
        f['group'], f['loop'] = h5py.ExternalLink('other.h5', '/'), h5py.SoftLink('loop')
        layout = h5py.VirtualLayout((40, 2, 10), 'f4')
        layout[:] = h5py.VirtualSource(str(tmp_path/'other.h5'), 'X', (40, 2, 10))
        f.create_virtual_dataset('virtual', layout)
        f.create_dataset('raw', (40, 2, 10), 'f4', external=[(str(tmp_path/'raw'), 0, h5py.h5f.UNLIMITED)])
        f.create_dataset('unwritten', (40, 2, 10), 'f4')
        f.create_dataset('partly', (40, 2, 10), 'f4', chunks=(10, 2, 10))[:10] = 1
        f.create_dataset('nan', (40, 2, 10), 'f4', fillvalue=np.nan)
        f.create_dataset('sparse', (40, 2, 10), 'f4').attrs['sparse'] = True
    return tmp_path/'a.h5'


@pytest.mark.parametrize('key, text', [
    ('ext', 'link to another file'), ('deep', 'link to another file'), ('group/X', 'link to another file'), ('virtual', 'virtual'),
    ('raw', 'in another file'), ('loop', 'circle'), ('unwritten', 'not all values'), ('partly', 'not all values'), ('none', 'no array')])
def test_hdf5_never_reads_other_files_nor_what_was_not_written(h5, key, text):
    with pytest.raises(ValueError, match=f'a.h5.*{text}'): StoredSource(h5, key)


@pytest.mark.parametrize('key, want', [('soft', X), ('up/X', X), ('nan', X*np.nan), ('sparse', X*0)])
def test_what_is_in_an_hdf5_file_is_read(h5, key, want):
    assert np.array_equal(StoredSource(h5, key).read([0, 39, 7]), want[[0, 39, 7]], equal_nan=True)


@pytest.mark.parametrize('chunks', [None, (7, 2, 10), (40, 1, 3), (1, 1, 1)])
def test_rows_of_hdf5_are_read_as_slices(tmp_path, chunks):
    h5py = library('h5py')
    with h5py.File(tmp_path/'a.h5', 'w') as f: f.create_dataset('X', data=X, chunks=chunks)
    src, rng = StoredSource(tmp_path/'a.h5'), np.random.default_rng(0)
    for rows in [[0, 39], [39, 0, 0], [5], list(range(40)), []] + [rng.integers(0, 40, n) for n in (3, 17, 60)]:
        rows = np.asarray(rows, int)
        assert np.array_equal(src.read(rows), X[rows])


@pytest.fixture(params=[2, 3, 'shards', 'group'])
def store(request, tmp_path):
    "A Zarr array of four chunks, in each format, and the key of it"
    zarr, path, kind = library('zarr'), str(tmp_path/'a.zarr'), request.param
    how = dict(shape=X.shape, chunks=(10, 2, 10), dtype='f4')
    if kind == 'group': z = zarr.open_group(path, mode='w').create_array('X', **how)
    elif kind == 'shards': z = zarr.create_array(path, **dict(how, chunks=(5, 2, 10)), shards=(10, 2, 10))
    else: z = zarr.create_array(path, **how, zarr_format=kind)
    z[:] = X + 1
    return z, path, sorted(f for f in Path(path).rglob('*') if f.is_file() and not f.name.startswith(('.z', 'zarr')))


def test_an_absent_chunk_of_zarr_is_refused(store):
    z, path, chunks = store
    assert len(chunks) == 4 and np.array_equal(StoredSource(path).read(np.arange(40)), X + 1)
    chunks[1].unlink()
    src = StoredSource(path)
    assert np.array_equal(src.read([0, 9, 20, 39]), X[[0, 9, 20, 39]] + 1)
    for rows in ([10], [0, 19], np.arange(40)):
        with pytest.raises(ValueError, match=r'a\.zarr.*has no file'): src.read(rows)
    with pytest.raises(ValueError, match='has no file'):
        for window in members(path, window=10).values(): window.read(np.arange(len(window)))
    z.attrs['sparse'] = True
    other = shutil.copytree(path, f'{path[:-5]}-sparse.zarr')
    assert np.array_equal(StoredSource(other).read([10, 9]), [0*X[0], X[9] + 1])


def test_nan_announces_what_is_absent(tmp_path):
    zarr = library('zarr')
    z = zarr.create_array(str(tmp_path/'a.zarr'), shape=X.shape, chunks=(10, 2, 10), dtype='f4', fill_value=np.nan)
    z[:10] = X[:10]
    x = StoredSource(tmp_path/'a.zarr').read(np.arange(40))
    assert np.isnan(x[10:]).all() and np.array_equal(x[:10], X[:10])


def test_damaged_chunks_name_the_store(store):
    _, path, chunks = store
    chunks[2].write_bytes(zlib.compress(b'x'*100))
    with pytest.raises(ValueError, match=r'a\.zarr'): StoredSource(path).read(np.arange(40))
    shutil.rmtree(path)
    with pytest.raises(ValueError, match=r'a\.zarr'): StoredSource(path)

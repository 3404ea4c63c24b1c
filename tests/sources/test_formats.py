"Recordings in EDF, BrainVision, WFDB and sound files hold what the libraries of these formats read; damaged files give errors that name them"
import random
import warnings
from datetime import date, time
from pathlib import Path

import numpy as np
import pytest

from tsmeta.sources.channels import CHANNEL, ChannelData, ChannelWindows, read_recordings


def assert_same(found, wanted):
    "Values are equal to one unit in the last place of float32, missing ones in the same places"
    wanted = np.float32(wanted)
    assert found.shape == wanted.shape
    near = np.abs(found - wanted) <= np.spacing(np.abs(wanted))
    assert (near | (np.isnan(found) & np.isnan(wanted))).all()


def write_edf(path, rng, rates=(100, 100), seconds=6, events=0, **kwargs):
    edfio = pytest.importorskip('edfio')
    scale = 10**rng.uniform(-3, 3)
    signals = [edfio.EdfSignal(rng.normal(size=r*seconds)*scale, r, label=f'ch{k}', physical_dimension='uV') for k, r in enumerate(rates)]
    onsets = np.round(rng.uniform(0, seconds - 1, events), 3)
    annotations = [edfio.EdfAnnotation(float(o), [None, .25][k % 2], f'é {k}') for k, o in enumerate(onsets)]
    edfio.Edf(signals, annotations=annotations, starttime=time(10, 11, 12), **kwargs).write(path)
    return edfio.read_edf(path)


@pytest.mark.parametrize('seed', range(12))
def test_edf_is_what_edfio_reads(tmp_path, seed):
    rng = np.random.default_rng(seed)
    rates = [int(rng.choice([1, 10, 64, 100]))]*int(rng.integers(1, 5)) + [25, 25]*(seed % 3 == 0)
    theirs = write_edf(tmp_path/'a.edf', rng, rates, int(rng.integers(2, 9)), events=seed % 5)
    found = read_recordings(tmp_path/'a.edf')
    wanted = {s.label: s for s in theirs.signals}
    assert sorted(n for r in found for n in r.var_names) == sorted(wanted)
    for r in found:
        assert {wanted[n].sampling_frequency for n in r.var_names} == {r.rate}
        assert r.units == [wanted[n].physical_dimension for n in r.var_names]
        assert_same(r.data(), [wanted[n].data for n in r.var_names])
    notes = found[0].annotations()
    wanted = sorted((round(a.onset, 4), a.duration or -1, a.text) for a in theirs.annotations)
    assert sorted((round(o, 4), -1 if np.isnan(d) else d, t) for o, d, t in notes.itertuples(index=False)) == wanted


def test_edf_knows_when_it_began(tmp_path):
    edfio = pytest.importorskip('edfio')
    rng = np.random.default_rng(0)
    write_edf(tmp_path/'a.edf', rng, recording=edfio.Recording(startdate=date(2031, 2, 3)))
    assert read_recordings(tmp_path/'a.edf')[0].start == np.datetime64('2031-02-03T10:11:12')
    write_edf(tmp_path/'b.edf', rng)
    assert read_recordings(tmp_path/'b.edf')[0].start is None


def test_a_recording_that_was_not_closed_holds_what_was_written(tmp_path):
    write_edf(tmp_path/'a.edf', np.random.default_rng(0))
    whole = read_recordings(tmp_path/'a.edf')[0].data()
    raw = (tmp_path/'a.edf').read_bytes()
    (tmp_path/'a.edf').write_bytes(raw[:236] + b'-1      ' + raw[244:-50])
    part = read_recordings(tmp_path/'a.edf')[0].data()
    assert 0 < part.shape[1] < whole.shape[1] and (part == whole[:, :part.shape[1]]).all()


@pytest.mark.parametrize('form', ['16', '212', '24', '32', '80'])
def test_wfdb_is_what_wfdb_reads(tmp_path, monkeypatch, form):
    wfdb = pytest.importorskip('wfdb')
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        n, x = 1 + seed, rng.normal(size=(50 + seed, 1 + seed))*10**rng.uniform(-2, 2)
        if form == '16': x[3, 0] = np.nan
        when = dict(base_date=date(2020, 1, 2), base_time=time(3, 4, 5)) if seed else {}
        wfdb.wrsamp(f'r{seed}', fs=[100, 250, 360.5][seed], units=['mV']*n, sig_name=[f'lead {k}' for k in range(n)], p_signal=x, fmt=[form]*n, **when)
        wfdb.wrann(f'r{seed}', 'atr', np.array([0, 5]), symbol=['+', 'V'], aux_note=['(AFIB', ''])
        r, = read_recordings(tmp_path/f'r{seed}.hea')
        theirs = wfdb.rdrecord(f'r{seed}')
        assert_same(r.data(), theirs.p_signal.T)
        assert (r.var_names, r.units, r.rate) == (theirs.sig_name, theirs.units, theirs.fs)
        assert r.start == (np.datetime64('2020-01-02T03:04:05') if seed else None)
        assert isinstance(r.data, ChannelData) == (form == '16')
        notes = r.annotations()
        assert notes.label.tolist() == ['+', 'V'] and notes.note[0] == '(AFIB' and np.allclose(notes.onset, [0, 5/theirs.fs])


def write_brainvision(folder, x, kind='INT_16', order='MULTIPLEXED', gains=None):
    n = len(x)
    gains = [.1]*n if gains is None else gains
    (x.T if order == 'MULTIPLEXED' else x).astype('<i2' if kind == 'INT_16' else '<f4').tofile(folder/'b.eeg')
    lines = ''.join(f'Ch{k+1}=E{k},,{g},µV\n' for k, g in enumerate(gains))
    (folder/'b.vhdr').write_text(
        'Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\nDataFile=b.eeg\nMarkerFile=b.vmrk\n'
        f'DataFormat=BINARY\nDataOrientation={order}\nDataType=TIMEDOMAIN\nNumberOfChannels={n}\nSamplingInterval=4000\nDataPoints={x.shape[1]}\n'
        f'\n[Binary Infos]\nBinaryFormat={kind}\n\n[Channel Infos]\n{lines}\n[Comment]\nanything = at [all\n', encoding='utf-8')
    (folder/'b.vmrk').write_text(
        'Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\nDataFile=b.eeg\n\n[Marker Infos]\n'
        'Mk1=New Segment,,1,1,0,20200102030405123456\nMk2=Stimulus,S  1,2,3,0\nMk10=Comment,a\\1b,8,1,0\n', encoding='utf-8')


@pytest.mark.parametrize('order', ['MULTIPLEXED', 'VECTORIZED'])
@pytest.mark.parametrize('kind', ['INT_16', 'IEEE_FLOAT_32'])
def test_brainvision(tmp_path, kind, order):
    rng = np.random.default_rng(0)
    x, gains = np.round(rng.normal(size=(3, 40))*1000), [.5, .0488281, 2]
    write_brainvision(tmp_path, x, kind, order, gains)
    r, = read_recordings(tmp_path/'b.vhdr')
    assert_same(r.data(), x*np.array(gains)[:, None])
    assert (r.var_names, r.units, r.rate) == (['E0', 'E1', 'E2'], ['µV']*3, 250.)
    assert r.start == np.datetime64('2020-01-02T03:04:05.123456')
    assert r.annotations().values.tolist() == [[.004, .012, 'Stimulus/S  1'], [.028, .004, 'Comment/a,b']]
    mne = pytest.importorskip('mne')
    assert_same(r.data(), mne.io.read_raw_brainvision(tmp_path/'b.vhdr', verbose='error').get_data()*1e6)


@pytest.mark.parametrize('kind', ['PCM_16', 'PCM_32', 'FLOAT', 'DOUBLE', 'PCM_24', 'FLAC'])
def test_sound_is_what_soundfile_reads(tmp_path, kind):
    soundfile = pytest.importorskip('soundfile')
    for n in (1, 2, 3):
        path = tmp_path/f'{n}.{"flac" if kind == "FLAC" else "wav"}'
        soundfile.write(path, np.random.default_rng(n).uniform(-1, 1, (100 + n, n)), 8000, subtype=None if kind == 'FLAC' else kind)
        r, = read_recordings(path)
        assert_same(r.data(), soundfile.read(path, always_2d=True)[0].T)
        assert r.rate == 8000 and isinstance(r.data, ChannelData) == (kind not in ('PCM_24', 'FLAC'))


@pytest.mark.parametrize('seed', range(5))
def test_windows_are_pieces_of_the_recording(tmp_path, seed):
    rng = np.random.default_rng(seed)
    n, per_record, records = int(rng.integers(1, 5)), int(rng.integers(1, 9)), int(rng.integers(1, 20))
    numbers = rng.integers(-9, 9, (records, n, per_record)).astype('<i2')
    path = tmp_path/'x.bin'
    path.write_bytes(b'head!' + numbers.tobytes())
    channels = np.zeros(n, CHANNEL)
    channels['first'], channels['record_stride'], channels['per_record'] = np.arange(n)*per_record, n*per_record, per_record
    channels['step'], channels['gain'], channels['base'], channels['invalid'] = 1, rng.normal(size=n), rng.normal(size=n), 3
    data = ChannelData(path, '<i2', 5, channels, records*per_record)
    flat = numbers.transpose(1, 0, 2).reshape(n, -1).astype(float)
    wanted = np.where(flat == 3, np.nan, flat*channels['gain'][:, None] + channels['base'][:, None])
    assert_same(data(), wanted)
    window, stride = int(rng.integers(1, records*per_record + 1)), int(rng.integers(1, 4))
    source = ChannelWindows(data, window, stride)
    rows = rng.integers(0, len(source), 7)
    assert_same(source.read(rows), np.stack([wanted[:, r*stride:r*stride + window] for r in rows]))
    assert_same(np.concatenate([*source.recording_chunks(16)], 1), wanted)


def test_a_file_that_was_replaced_is_not_read(tmp_path):
    write_brainvision(tmp_path, np.ones((2, 10)))
    r, = read_recordings(tmp_path/'b.vhdr')
    with open(tmp_path/'b.eeg', 'ab') as f: f.write(b'1234')
    with pytest.raises(ValueError, match='b.eeg changed'): r.data()


def damaged(raw, rng):
    "Return bytes that were cut, changed, or in which a piece stands for another"
    raw, kind, at = bytearray(raw), rng.random(), rng.randrange(min(len(raw), 1500))
    if kind < .25: return bytes(raw[:rng.randrange(len(raw) + 1)])
    if kind < .5:
        for _ in range(rng.randint(1, 8)): raw[rng.randrange(min(len(raw), 1500))] = rng.randrange(256)
    elif kind < .75:
        raw[at:at + rng.randint(0, 20)] = rng.choice([b'-1', b'9'*8, b' '*8, b'1e400', b'nan', b'\0'*8, b'0', b',,', b'\n', b'=', '–é'.encode()])
    else: raw[at:at] = raw[at:at + rng.randint(1, 30)]
    return bytes(raw)


@pytest.mark.parametrize('name', ['a.edf', 'w.hea', 'w.atr', 'b.vhdr', 'b.vmrk', 's.wav', 's.flac'])
def test_damaged_files_give_errors_that_name_them(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    rng, x = random.Random(name), np.random.default_rng(0).normal(size=(100, 2))
    if name == 'a.edf': write_edf('a.edf', np.random.default_rng(0), events=3)
    elif name[0] == 'w':
        wfdb = pytest.importorskip('wfdb')
        wfdb.wrsamp('w', fs=100, units=['mV']*2, sig_name=['a', 'b'], p_signal=x, fmt=['16']*2)
        wfdb.wrann('w', 'atr', np.array([1, 5]), ['N', 'V'])
    elif name[0] == 'b': write_brainvision(tmp_path, np.round(x.T*100))
    else: pytest.importorskip('soundfile').write(name, np.clip(x, -1, 1), 8000)
    main, good = {'w.atr': 'w.hea', 'b.vmrk': 'b.vhdr'}.get(name, name), Path(name).read_bytes()
    refused = 0
    for _ in range(100):
        Path(name).write_bytes(damaged(good, rng))
        try:
            for r in read_recordings(main):
                if np.prod(r.data.shape) < 1e6: r.data()
                if r.annotations: r.annotations()
        except (ValueError, OSError) as e:
            assert main.split('.')[0] in str(e)
            refused += 1
    assert refused

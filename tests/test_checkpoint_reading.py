"""What a weights file is, is told by its content; every kind is read without running anything that is in it.

Files of PyTorch are read with PyTorch in `parity/test_torch_files.py`; here is what happens without it, and that it is
asked for weights only. Paddle files are in `test_weights.py`.
"""
from __future__ import annotations

import io
import json
import os
import pickle
import re
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from paddleseg_ext.checkpoints.reading import read_weights
from paddleseg_ext.errors import UserError

FIXTURES = Path(__file__).parent / 'fixtures' / 'checkpoints'
ARRAYS = {'fc.weight': np.arange(6, dtype='float32').reshape(2, 3), 'fc.bias': np.array([0.5, -1.], 'float32')}
WITNESS = 'a_checkpoint_ran_code'


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Armed files would leave their witness here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_arrays(weights, arrays=None):
    arrays = ARRAYS if arrays is None else arrays
    assert set(weights.arrays) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(weights.arrays[name], array)
        assert weights.arrays[name].dtype == array.dtype


def paddle_file(arrays=None) -> bytes:
    return pickle.dumps({**(ARRAYS if arrays is None else arrays), 'StructuredToParameterName@@': {'fc.weight': 'w_0'}},
                        protocol=2)


# safetensors

@pytest.mark.parametrize(('metadata', 'layout'), [
    ({'format': 'pt'}, 'torch'), ({'format': 'pd'}, 'paddle'), (None, None), ({'format': 'np'}, None)])
def test_safetensors_tell_their_layout_in_the_metadata(here, metadata, layout):
    save_file(ARRAYS, here / 'model.safetensors', metadata=metadata)
    weights = read_weights(here / 'model.safetensors')
    assert weights.layout == layout
    assert_arrays(weights)


def bfloat16(array) -> bytes:
    return (array.astype('float32').view('uint32') >> 16).astype('<u2').tobytes()


def raw_safetensors(kind, shape, data) -> bytes:
    header = json.dumps({'w': {'dtype': kind, 'shape': shape, 'data_offsets': [0, len(data)]}}).encode()
    return len(header).to_bytes(8, 'little') + header + data


def test_short_floats_become_float32(here):
    values = np.array([[1.5, -2., 0.], [3.1415927e10, 65280., -0.]], 'float32')
    path = here / 'model.safetensors'
    path.write_bytes(raw_safetensors('BF16', [2, 3], bfloat16(values)))
    array = read_weights(path).arrays['w']
    assert array.dtype == 'float32' and array.shape == (2, 3)
    np.testing.assert_allclose(array, values, rtol=2**-8)
    np.testing.assert_array_equal(array[0], values[0])
    path.write_bytes(raw_safetensors('F16', [2], np.array([1.5, -2.], '<f2').tobytes()))
    assert read_weights(path).arrays['w'].tolist() == [1.5, -2.]
    assert read_weights(path).arrays['w'].dtype == 'float32'


def test_scalars_and_whole_numbers_stay_what_they_are(here):
    arrays = {'counter': np.array(7, 'int64'), 'mask': np.array([True, False]), 'empty': np.zeros((0, 3), 'float32')}
    save_file(arrays, here / 'model.safetensors')
    assert_arrays(read_weights(here / 'model.safetensors'), arrays)


def test_other_types_are_user_errors(here):
    path = here / 'model.safetensors'
    path.write_bytes(raw_safetensors('F8_E4M3', [4], b'1234'))
    with pytest.raises(UserError, match='no safetensors file with arrays of numbers'):
        read_weights(path)


def test_truncated_and_damaged_safetensors_are_user_errors(here):
    save_file(ARRAYS, here / 'whole.safetensors', metadata={'format': 'pt'})
    content = (here / 'whole.safetensors').read_bytes()
    path = here / 'model.safetensors'
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r'model\.safetensors \(\d+ bytes\) is empty, cut short or no'):
            read_weights(path)
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content), 3):
            damaged[position] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert isinstance(read_weights(path).arrays, dict)
        except UserError as error:
            assert str(path) in str(error)


# The content decides

@pytest.mark.parametrize('name', ['model', 'model.pth', 'model.bin', 'model.safetensors', 'model.pdparams'])
def test_the_name_says_nothing(here, name):
    (here / name).write_bytes(paddle_file())
    weights = read_weights(here / name)
    assert weights.layout == 'paddle'
    assert_arrays(weights)
    save_file(ARRAYS, here / name, metadata={'format': 'pt'})
    assert read_weights(here / name).layout == 'torch'


@pytest.mark.parametrize(('content', 'what'), [
    (b'\n<!DOCTYPE html><html>404 Not Found</html>', "a web page, perhaps a server's error"),
    (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "a web page, perhaps a server's error"),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:00\n', 'a pointer of Git LFS, not')])
@pytest.mark.parametrize('suffix', ['pth', 'pdparams', 'safetensors'])
def test_pages_and_pointers_are_called_what_they_are(here, content, what, suffix):
    path = here / f'model.{suffix}'
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f'{path} ({len(content)} bytes) is {what}')):
        read_weights(path)


@pytest.mark.parametrize('content', [
    b'', b'\x00' * 64, b'PK\x03\x04 cut', 'Grüße\n'.encode(), b'\x89HDF\r\n\x1a\n', b'{"a": 1}'], ids=repr)
def test_other_files_are_user_errors(here, content):
    path = here / 'model.pth'
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf'model\.pth \({len(content)} bytes\) is empty, cut short or no weights file'):
        read_weights(path)


def test_an_absent_file_is_a_user_error(here):
    with pytest.raises(UserError, match='weights file .*nothing.pth does not exist'):
        read_weights(here / 'nothing.pth')


# Archives of PaddleSeg's releases

def archive(path, files):
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w') as target:
            for name, content in files.items():
                target.writestr(name, content)
    else:
        with tarfile.open(path, 'w:gz' if path.suffix == '.gz' else 'w') as target:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                target.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize('name', ['weights.zip', 'weights.tar', 'weights.tar.gz'])
def test_archives_with_one_weights_file(here, name):
    path = archive(here / name, {'folder/readme.txt': b'text', 'folder/model.pdparams': paddle_file()})
    assert_arrays(read_weights(path))
    path = archive(here / name, {'a.pdparams': paddle_file(), 'b.pdparams': paddle_file()})
    text = r"archive with 2 \.pdparams files in it \['a.pdparams', 'b.pdparams'\]; unpack it"
    with pytest.raises(UserError, match=text):
        read_weights(path)


def test_wrappers_names_are_taken_off(here):
    path = here / 'model.pdparams'
    path.write_bytes(paddle_file({'_orig_mod.module.' + name: array for name, array in ARRAYS.items()})
                     .replace(b'StructuredToParameterName@@', b'_orig_mod.module.OtherTable'))
    assert set(read_weights(path).arrays) == {*ARRAYS, 'OtherTable'}


# Nothing runs

class Armed:
    def __reduce__(self):
        return eval, (f'open({WITNESS!r}, "w").close()',)


@pytest.mark.parametrize('name', ['model.pdparams', 'model.pth', 'model.zip'])
def test_a_paddle_file_that_would_run_code_is_refused_and_does_not_run(here, name):
    content = pickle.dumps({'w': ARRAYS['fc.bias'], 'x': Armed()}, protocol=2)
    if name == 'model.zip':
        archive(here / name, {'model.pdparams': content})
    else:
        (here / name).write_bytes(content)
    with pytest.raises(UserError, match=rf'{name} was refused: it asks to load __builtin__\.eval\. Only arrays'):
        read_weights(here / name)
    assert os.listdir(here) == [name]
    pickle.loads(content)
    assert WITNESS in os.listdir(here), 'the file is armed: an ordinary unpickler does run it'


@pytest.mark.parametrize('name', ['armed.pth', 'armed_legacy.pth', 'plain.pth', 'plain_legacy.pth'])
def test_without_pytorch_its_files_are_recognised_and_not_opened(here, monkeypatch, name):
    monkeypatch.setitem(sys.modules, 'torch', None)  # as if it were not installed, in whatever environment this runs
    with pytest.raises(UserError, match=rf'{name} is a PyTorch file, and reading it needs PyTorch: pip install torch'):
        read_weights(FIXTURES / name)
    assert os.listdir(here) == []


class Tensor:
    """As much of a tensor as reading uses."""

    def __init__(self, array, *, short=False):
        self.array, self.short = array, short

    def is_floating_point(self):
        return self.array.dtype.kind == 'f'

    def element_size(self):
        return 2 if self.short else self.array.itemsize

    def float(self):
        return Tensor(self.array.astype('float32'))

    def detach(self):
        return self

    def numpy(self):
        assert not self.short
        return self.array


def with_torch(monkeypatch, result, version='2.6.0+cpu'):
    """A stand-in for PyTorch whose `load` gives `result`, or raises it; returns the list of the calls' arguments."""
    calls = []

    def load(file, **arguments):
        calls.append(arguments)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setitem(sys.modules, 'torch', types.SimpleNamespace(load=load, Tensor=Tensor,
                                                                      __version__=version))
    return calls


@pytest.mark.parametrize('name', ['plain.pth', 'plain_legacy.pth', 'mmsegmentation.pth', 'program.pt'])
def test_pytorch_is_always_asked_for_weights_only(monkeypatch, name):
    tensors = {name: Tensor(array, short=True) for name, array in ARRAYS.items()}
    calls = with_torch(monkeypatch, {'epoch': 3, 'model': {'module.' + key: value for key, value in tensors.items()}})
    weights = read_weights(FIXTURES / name)
    assert calls == [{'map_location': 'cpu', 'weights_only': True}]
    assert (weights.layout, weights.part) == ('torch', 'model')
    assert_arrays(weights)


@pytest.mark.parametrize('version', ['2.5.1', '1.13.1+cu117', '2.0.0a0+git'])
def test_a_pytorch_that_is_not_safe_opens_nothing(monkeypatch, version):
    calls = with_torch(monkeypatch, {}, version)
    with pytest.raises(UserError, match=r'PyTorch .* can be made to run code by a weights file .*torch>=2\.6'):
        read_weights(FIXTURES / 'plain.pth')
    assert calls == []


@pytest.mark.parametrize(('text', 'message'), [
    ('Unsupported global: GLOBAL mmengine.logging.history_buffer.HistoryBuffer was not an allowed global by default.',
     r'was refused: it asks to load mmengine\.logging\.history_buffer\.HistoryBuffer\. .* where you trust the file'),
    ('Unsupported class argparse.Namespace', r'was refused: it asks to load argparse\.Namespace\. Only tensors'),
    ('Cannot use ``weights_only=True`` with TorchScript archives', 'refused: it is a TorchScript program, not'),
    ('weights_only\nWeightsUnpickler error: Unsupported operand 149\n', 'more than weights: Unsupported operand 149;'),
    ('PytorchStreamReader failed reading zip archive', 'is empty, cut short or no PyTorch weights file')])
def test_what_pytorch_refuses_is_refused_with_the_reason(monkeypatch, text, message):
    with_torch(monkeypatch, pickle.UnpicklingError(text))
    with pytest.raises(UserError, match=r'plain\.pth .*' + message):
        read_weights(FIXTURES / 'plain.pth')


def test_pytorch_files_must_hold_a_dictionary(monkeypatch):
    with_torch(monkeypatch, [1, 2])
    with pytest.raises(UserError, match='holds a list, but weights are a dictionary of tensors; save the state_dict'):
        read_weights(FIXTURES / 'plain.pth')

"""Reads weights files of Paddle, PyTorch and safetensors without running anything that is in them.

A Paddle file and a PyTorch file are pickles, and a pickle can name any function to be called. The unpickler here admits
NumPy arrays and plain containers only, and PyTorch's is told to admit weights only, so a crafted file is refused by the
name of what it asked for. What a file is, is told by its content.
"""
from __future__ import annotations

import pickle
import re
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from paddleseg_ext.errors import UserError

__all__ = ['Weights', 'read_arrays', 'read_parameter_names', 'read_weights']

ADMITTED = {
    ('numpy', 'ndarray'),
    ('numpy', 'dtype'),
    ('numpy.core.multiarray', '_reconstruct'),
    ('numpy.core.multiarray', 'scalar'),
    ('numpy._core.multiarray', '_reconstruct'),
    ('numpy._core.multiarray', 'scalar'),
    ('_codecs', 'encode'),
    ('collections', 'OrderedDict'),
}
NAME_TABLE = 'StructuredToParameterName@@'

# Keys under which training programs keep the weights; the first that is there is taken, so an average before the last.
CONTAINERS = ('teacher', 'state_dict_ema', 'model_ema', 'ema_state_dict', 'state_dict', 'model_state_dict', 'model',
              'module')
# What wrappers of models (several devices, compilation) put before every name.
WRAPPERS = ('module.', '_orig_mod.')
# Metadata of safetensors: which framework wrote it.
SAFETENSORS_LAYOUTS = {'pt': 'torch', 'pd': 'paddle'}
SAFETENSORS_TYPES = {'F64': 'f8', 'F32': 'f4', 'F16': 'f2', 'BF16': 'u2', 'I64': 'i8', 'I32': 'i4', 'I16': 'i2',
                     'I8': 'i1', 'U64': 'u8', 'U32': 'u4', 'U16': 'u2', 'U8': 'u1', 'BOOL': '?'}
# The first release whose `weights_only` keeps what it says (CVE-2025-32434).
SAFE_PYTORCH = (2, 6)
PYTORCH_LEGACY = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
TEXTS = ((re.compile(rb'\s*<(!doctype|html|\?xml)', re.IGNORECASE), 'a web page, perhaps a server\'s error'),
         (re.compile(rb'version https://git-lfs'), 'a pointer of Git LFS, not the file it points to'))


@dataclass
class Weights:
    """What a weights file holds.

    Attributes:
        arrays: by name; floating-point arrays are at least of 32 bits.
        layout: 'paddle' or 'torch', None where a safetensors file does not tell.
        part: the key of the file that the weights stood under, '' where they are all there is.
    """

    arrays: dict[str, np.ndarray]
    layout: str | None
    part: str = ''


class _Refused(pickle.UnpicklingError):
    """The file wants something to be loaded that is no array and no plain container."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in ADMITTED:
            raise _Refused(f'it asks to load {module}.{name}')
        return super().find_class(module, name)


def read_arrays(path: Path | str) -> dict:
    """The dictionary stored in a Paddle file: names to NumPy arrays, and for optimizers plain containers.

    Raises:
        UserError: the file is absent, empty, truncated, no pickle, no dictionary, or asks for code to be loaded.
    """
    content = _read_pickle(Path(path))
    content.pop(NAME_TABLE, None)
    return content


def read_parameter_names(path: Path | str) -> dict[str, str]:
    """From Paddle's own name of each parameter (`conv2d_0.w_0`) to its name in the model; empty where not noted.

    Raises:
        UserError: as `read_arrays`.
    """
    return {own: name for name, own in _read_pickle(Path(path)).get(NAME_TABLE, {}).items()}


def read_weights(path: Path | str) -> Weights:
    """The weights in a file of Paddle, PyTorch or safetensors, or in an archive with one `.pdparams` in it.

    Raises:
        UserError: the file is absent, empty, truncated or something else, or asks for code to be loaded; or it is of
            PyTorch, which is not installed.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == 'safetensors':
        return _read_safetensors(path)
    if kind == 'torch':
        return _read_torch(path)
    content = _read_pickle(path, 'weights file of Paddle, PyTorch or safetensors')
    content.pop(NAME_TABLE, None)
    return Weights(_unwrapped(content), 'paddle')


def _unwrapped(arrays: dict) -> dict:
    arrays = {str(name): array for name, array in arrays.items()}
    for prefix in WRAPPERS:
        if arrays and all(name.startswith(prefix) for name in arrays):
            return _unwrapped({name[len(prefix):]: array for name, array in arrays.items()})
    return arrays


def _kind(path: Path) -> str:
    """'paddle', 'torch' or 'safetensors'; a Paddle file too may be inside an archive."""
    start = _start(path)
    if start[:4] == b'PK\x03\x04' and not _is_archive_of_paddle(path):
        return 'torch'
    if start[2:2 + len(PYTORCH_LEGACY)] == PYTORCH_LEGACY:
        return 'torch'
    if start[8:9] == b'{':
        return 'safetensors'
    text = next((what for pattern, what in TEXTS if pattern.match(start)), None)
    if text is not None:
        raise UserError(f'{path} ({path.stat().st_size} bytes) is {text}; download the weights by other means.')
    return 'paddle'


def _start(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f'weights file {path} does not exist.')
    with open(path, 'rb') as file:
        return file.read(512)


def _is_archive_of_paddle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith('.pdparams') for name in archive.namelist())
    except Exception as error:  # NOTE: any at all, because zipfile raises what damaged bytes make it raise
        raise _damaged(path, 'weights file or archive', error) from error


@contextmanager
def _open_pickle(path: Path) -> Iterator[BinaryIO]:
    """The file, or the one `.pdparams` in it where it is an archive."""
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive, archive.open(_only_weights(path, archive.namelist())) as file:
            yield file
    elif path.is_file() and path.suffix != '.pdparams' and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive, archive.extractfile(_only_weights(path, archive.getnames())) as file:
            yield file
    else:
        with open(path, 'rb') as file:
            yield file


def _only_weights(path: Path, names: list[str]) -> str:
    found = [name for name in names if name.endswith('.pdparams')]
    if len(found) != 1:
        raise UserError(f'{path} is an archive with {len(found)} .pdparams files in it {found[:3]}; unpack it and give '
                        'the path of the one that is wanted.')
    return found[0]


def _read_pickle(path: Path, what: str = 'Paddle weights file') -> dict:
    _start(path)
    try:
        with _open_pickle(path) as file:
            content = _ArrayUnpickler(file).load()
    except UserError:
        raise
    except _Refused as error:
        raise UserError(f'{path} was refused: {error}. Only arrays and plain containers are read from a weights file, '
                        'because anything else could run code; save it again as a plain state dictionary.') from error
    except Exception as error:  # NOTE: any at all, because damaged bytes can make pickle and NumPy raise what they like
        raise _damaged(path, what, error) from error
    if not isinstance(content, dict):
        raise UserError(f'{path} holds a {type(content).__name__}, but weights are a dictionary of arrays.')
    return content


def _damaged(path: Path, what: str, error: Exception) -> UserError:
    return UserError(f'{path} ({path.stat().st_size} bytes) is empty, cut short or no {what}: '
                     f'{error or type(error).__name__}; copy or download it again.')


def _read_safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError, deserialize, safe_open
    try:
        with safe_open(path, framework='np') as file:
            metadata = file.metadata() or {}
        arrays = {name: _array(view) for name, view in deserialize(path.read_bytes())}
    except (SafetensorError, KeyError, ValueError) as error:
        raise _damaged(path, 'safetensors file with arrays of numbers', error) from error
    return Weights(_unwrapped(arrays), SAFETENSORS_LAYOUTS.get(metadata.get('format')))


def _array(view: dict) -> np.ndarray:
    array = np.frombuffer(view['data'], '<' + SAFETENSORS_TYPES[view['dtype']]).reshape(view['shape'])
    if view['dtype'] == 'BF16':  # the upper half of a float32
        return (array.astype('uint32') << 16).view('float32')
    return array.astype('float32') if view['dtype'] == 'F16' else array


def _read_torch(path: Path) -> Weights:
    """What `torch.save` wrote, arrays in the place of tensors."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f'{path} is a PyTorch file, and reading it needs PyTorch: pip install torch (the CPU build is '
                        'enough), or convert it with `paddleseg convert` where PyTorch is installed.') from error
    if tuple(int(number) for number in re.findall(r'\d+', torch.__version__)[:2]) < SAFE_PYTORCH:
        raise UserError(f'{path} was not opened: PyTorch {torch.__version__} can be made to run code by a weights file '
                        '(CVE-2025-32434); pip install "torch>=2.6", or convert the file where that is installed.')

    def plain(value):
        if not isinstance(value, torch.Tensor):
            return value
        short = value.is_floating_point() and value.element_size() < 4
        return (value.float() if short else value).detach().numpy()

    try:
        with open(path, 'rb') as file:  # NOTE: torch.load of a path would trust its suffix
            content, part = _contained(torch.load(file, map_location='cpu', weights_only=True), path)
        arrays = {name: plain(value) for name, value in content.items()}
    except UserError:
        raise
    except Exception as error:  # NOTE: any at all, because damaged bytes can make PyTorch raise what it likes
        raise (_refusal_by_torch(path, str(error)) or _damaged(path, 'PyTorch weights file', error)) from error
    return Weights(_unwrapped(arrays), 'torch', part)


def _contained(content: object, path: Path) -> tuple[dict, str]:
    """The state dictionary in what a PyTorch file holds, and the key it stood under."""
    if not isinstance(content, dict):
        raise UserError(f'{path} holds a {type(content).__name__}, but weights are a dictionary of tensors; save the '
                        'state_dict() of the model.')
    part = next((key for key in CONTAINERS if isinstance(content.get(key), dict)), '')
    return (content[part], part) if part else (content, '')


def _refusal_by_torch(path: Path, text: str) -> UserError | None:
    """The error for what PyTorch refuses to load for safety, None where it was something else."""
    asked = re.search(r'(?:GLOBAL|Unsupported class) ([\w.]+)', text)
    if asked:
        return UserError(f'{path} was refused: it asks to load {asked.group(1)}. Only tensors and plain containers are '
                         'read from a weights file, because anything else could run code; on a machine where you trust '
                         'the file, save only its weights: torch.save(torch.load(FILE, weights_only=False)'
                         '["state_dict"], NEW_FILE).')
    if 'TorchScript' in text:
        return UserError(f'{path} was refused: it is a TorchScript program, not weights; save the state_dict() of the '
                         'model it was made from.')
    if 'weights_only' in text:
        detail = re.search('WeightsUnpickler error: (.*)', text)
        return UserError(f'{path} is damaged, or holds more than weights: {detail.group(1) if detail else "refused"}; '
                         'download it again, or save only the state_dict() of the model.')
    return None

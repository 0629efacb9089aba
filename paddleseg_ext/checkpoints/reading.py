"""Reads `.pdparams` and `.pdopt` files without running anything that is in them.

A Paddle file is a pickle, and a pickle can name any function to be called. The unpickler here admits NumPy arrays and
plain containers only, so a crafted file is refused by the name of what it asked for.
"""
from __future__ import annotations

import pickle
from pathlib import Path

from paddleseg_ext.errors import UserError

__all__ = ['read_arrays', 'read_parameter_names']

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


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f'it asks to load {module}.{name}')
        return super().find_class(module, name)


def read_arrays(path: Path | str) -> dict:
    """The dictionary stored in a Paddle file: names to NumPy arrays, and for optimizers plain containers.

    Raises:
        UserError: the file is absent, empty, truncated, no pickle, no dictionary, or asks for code to be loaded.
    """
    content = _read(Path(path))
    content.pop(NAME_TABLE, None)
    return content


def read_parameter_names(path: Path | str) -> dict[str, str]:
    """From Paddle's own name of each parameter (`conv2d_0.w_0`) to its name in the model; empty where not noted.

    Raises:
        UserError: as `read_arrays`.
    """
    return {own: name for name, own in _read(Path(path)).get(NAME_TABLE, {}).items()}


def _read(path: Path) -> dict:
    if not path.is_file():
        raise UserError(f'weights file {path} does not exist.')
    try:
        with open(path, 'rb') as file:
            content = _ArrayUnpickler(file).load()
    except pickle.UnpicklingError as error:
        raise UserError(f'{path} was refused: {error}. Only arrays and plain containers are read from a weights file, '
                        'because anything else could run code; save it again as a plain state dictionary.') from error
    except Exception as error:  # NOTE: any at all, because damaged bytes can make pickle and NumPy raise what they like
        raise UserError(f'{path} ({path.stat().st_size} bytes) is empty, cut short or no Paddle weights file: '
                        f'{error or type(error).__name__}; copy or download it again.') from error
    if not isinstance(content, dict):
        raise UserError(f'{path} holds a {type(content).__name__}, but weights are a dictionary of arrays.')
    return content

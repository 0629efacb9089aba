"""Loads a state dictionary into a model: all of it, or an error that says what does not fit."""
from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext.checkpoints.reading import read_weights
from paddleseg_ext.errors import UserError

__all__ = ['fill', 'load_weights', 'matching', 'numbered_checkpoints', 'own_weights', 'some', 'weights_file']

FILE_NAME = 'model.pdparams'
# Buffers that paddle.flops leaves in the state dictionaries of the models it has counted.
FLOP_COUNTERS = ('total_ops', 'total_params')
SHOWN = 8
REMEDY = 'Give the weights that belong to this configuration, or the configuration that belongs to them.'

log = logging.getLogger('paddleseg_ext')


def numbered_checkpoints(save_dir: Path) -> list[tuple[int, Path]]:
    """The iter_N folders of a run that hold weights, with their N, oldest first."""
    found = ((re.fullmatch(r'iter_(\d+)', path.name), path) for path in save_dir.glob('iter_*'))
    return sorted((int(match.group(1)), path) for match, path in found if match and (path / FILE_NAME).exists())


def weights_file(path: Path | str) -> Path:
    """The `.pdparams` file that `path` names: the file itself, or the one in a checkpoint or run folder.

    Of a run folder it is that of best_model, or where nothing was validated that of the newest iter_N.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    newest = [folder for _, folder in numbered_checkpoints(path)[-1:]]
    for folder in (path, path / 'best_model', *newest):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    kind = 'has no ' + FILE_NAME if path.is_dir() else 'does not exist'
    raise UserError(f'{path} {kind}; give a .pdparams file, a checkpoint folder (iter_N, best_model) or a run folder.')


def load_weights(model: nn.Layer, path: Path | str) -> None:
    """Fill every weight of `model` from a `.pdparams` or `.safetensors` file with our names, or a checkpoint folder.

    Raises:
        UserError: the file cannot be read, or is of PyTorch, or a weight is missing, left over or of another shape.
    """
    file = weights_file(path)
    weights = read_weights(file)
    if weights.layout == 'torch':
        raise UserError(f'{file} holds weights of PyTorch; convert them first: paddleseg convert {file} '
                        f'{file.stem}.pdparams')
    fill(model, weights.arrays, source=str(file))


def own_weights(state: Mapping) -> dict:
    """A state dictionary without what paddle.flops may have left in it."""
    return {name: value for name, value in state.items() if str(name).split('.')[-1] not in FLOP_COUNTERS}


def fill(model: nn.Layer, arrays: Mapping[str, np.ndarray], *, source: str, may_start_fresh: Sequence[str] = (),
         may_be_left: Sequence[str] = (), unmatched: Sequence[str] = (), remedy: str = REMEDY) -> None:
    """Set the weights of `model` from `arrays`, and say in the log what started fresh or was left over.

    Args:
        source: what to call the arrays in messages.
        may_start_fresh: patterns of names that may be missing in `arrays`, or there in another shape.
        may_be_left: patterns of names in `arrays` and `unmatched` that the model may lack.
        unmatched: further names in the source, which could not even be translated to names of ours.
        remedy: last line of the error.

    Floating-point arrays of another precision are converted.

    Raises:
        UserError: something else is missing, left over, of another shape, or no array of numbers as the model has.
            Nothing has been loaded then.
    """
    state = model.state_dict()
    arrays = {str(name): array for name, array in own_weights(arrays).items()}
    wanted = list(own_weights(state))
    missing = [name for name in wanted if name not in arrays]
    extra = [name for name in arrays if name not in state] + list(unmatched)
    types = [name for name in wanted if name in arrays and not _same_kind(arrays[name], state[name])]
    shapes = [name for name in wanted if name in arrays and name not in types
              and list(arrays[name].shape) != list(state[name].shape)]
    fresh = matching(missing + shapes, may_start_fresh)
    left = matching(extra, may_be_left)

    faults = [('missing in it', [name for name in missing if name not in fresh]),
              ('unknown to the model', [name for name in extra if name not in left]),
              ('of another shape', [f'{name} {list(arrays[name].shape)} (model: {list(state[name].shape)})'
                                    for name in shapes if name not in fresh]),
              ('of another type', [f'{name} ({_type_of(arrays[name])})' for name in types])]
    if any(names for _, names in faults):
        fitting = len(wanted) - len(missing + shapes + types)
        raise UserError(_describe(source, type(model).__name__, faults, loaded=fitting, total=len(wanted),
                                  remedy=remedy))
    used = [name for name in wanted if name not in fresh]
    # NOTE: what starts fresh is set to itself, because set_state_dict warns about every name it is not given.
    model.set_state_dict({**state, **{name: paddle.to_tensor(arrays[name], dtype=state[name].dtype) for name in used}})
    log.info('%s: %d of %d weights loaded from %s%s%s', type(model).__name__, len(used), len(wanted), source,
             _clause('; started fresh', fresh), _clause('; left over', left))


def _same_kind(value: object, tensor: paddle.Tensor) -> bool:
    """Whether `value` is an array of real numbers for a tensor of such, or of whole numbers for one of those."""
    return isinstance(value, np.ndarray) and value.dtype.kind in ('f' if tensor.is_floating_point() else 'iub')


def _type_of(value: object) -> str:
    return f'array of {value.dtype}' if isinstance(value, np.ndarray) else type(value).__name__


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that a pattern fits, in which `*` stands for anything."""
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _clause(title: str, names: Sequence[str]) -> str:
    return f'{title}: {some(names)}' if names else ''


def some(names: Sequence[str]) -> str:
    """The first few names, and how many there are beside them."""
    return ', '.join(names[:SHOWN]) + (f' and {len(names) - SHOWN} more' if len(names) > SHOWN else '')


def _describe(source: str, model: str, faults, *, loaded: int, total: int, remedy: str) -> str:
    lines = [f'{source} does not fit {model}: {loaded} of {total} weights match.']
    lines += [f'  {len(names)} {title}: {some(names)}' for title, names in faults if names]
    return '\n'.join([*lines, remedy])

"""A training state on disk: `save_dir/iter_N/` and `save_dir/best_model/`, each whole or not there at all.

    model.pdparams            the weights to use: the moving average where one is kept, else those of the last step
    model_training.pdparams   the weights of the last step, where model.pdparams is the average
    model.pdopt               optimizer and schedule
    model.pdscaler            loss scaler, if there is one
    state.json                iteration, seed, best score, and the optimizer's names for the weights

The two model files are in PaddleSeg's format. Everything random in a training is a function of the seed, the rank and
the iteration (`engine/sampling.py`), so the seed and the iteration are the whole state of the random numbers.
"""
from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import paddle
from paddle import nn

from paddleseg_ext.checkpoints.reading import read_arrays
from paddleseg_ext.checkpoints.weights import FILE_NAME, FLOP_COUNTERS, fill
from paddleseg_ext.errors import UserError
from paddleseg_ext.files import atomic_folder

__all__ = ['Progress', 'find_checkpoint', 'restore', 'save', 'tidy']

STATE_FILE = 'state.json'
TRAINING_FILE = 'model_training.pdparams'


@dataclass
class Progress:
    """How far a training has come.

    `best_score` is the best validation mIoU so far (-1 before the first), reached at `best_iteration`; the last
    validation was at `evaluated_iteration`.
    """
    iteration: int = 0
    seed: int = 0
    best_score: float = -1.
    best_iteration: int = 0
    evaluated_iteration: int = 0


def save(folder: Path, model: nn.Layer, optimizer, progress: Progress, *, average: nn.Layer | None = None,
         scaler=None) -> None:
    """Write a complete training state, atomically."""
    with atomic_folder(folder) as temporary:
        paddle.save(_weights(average or model), str(temporary / FILE_NAME))
        if average is not None:
            paddle.save(_weights(model), str(temporary / TRAINING_FILE))
        paddle.save(optimizer.state_dict(), str(temporary / 'model.pdopt'))
        if scaler is not None:
            paddle.save(scaler.state_dict(), str(temporary / 'model.pdscaler'))
        state = {**asdict(progress), 'parameter_names': {p.name: name for name, p in model.named_parameters()}}
        (temporary / STATE_FILE).write_text(json.dumps(state, indent=1))


def _weights(model: nn.Layer) -> dict:
    return {name: value for name, value in model.state_dict().items() if name.split('.')[-1] not in FLOP_COUNTERS}


def restore(folder: Path, model: nn.Layer, optimizer, *, average: nn.Layer | None = None, scaler=None) -> Progress:
    """Load what `save` wrote.

    A checkpoint without moving average or scaler, where one is wanted, starts the average from the weights and the
    scaler afresh. Folders of PaddleSeg, which have no state file, give the iteration of their name.

    Raises:
        UserError: a file is missing or does not fit.
    """
    last = folder / TRAINING_FILE
    last = last if last.exists() else folder / FILE_NAME
    fill(model, read_arrays(last), source=str(last))
    state = _read_state(folder)
    _restore_optimizer(folder / 'model.pdopt', model, optimizer, state.pop('parameter_names', {}))
    if average is not None:
        fill(average, read_arrays(folder / FILE_NAME), source=str(folder / FILE_NAME))
    if scaler is not None and (folder / 'model.pdscaler').exists():
        scaler.load_state_dict(paddle.load(str(folder / 'model.pdscaler')))
    return Progress(**state)


def _read_state(folder: Path) -> dict:
    file = folder / STATE_FILE
    if file.exists():
        try:
            return json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f'{file} is damaged ({error}); resume from another checkpoint.') from error
    match = re.fullmatch(r'iter_(\d+)', folder.name)
    if match is None:
        raise UserError(f'{folder} has no {STATE_FILE} and is not named iter_N, so its iteration is unknown; resume '
                        'from an iter_N folder.')
    return {'iteration': int(match.group(1))}


def _restore_optimizer(file: Path, model: nn.Layer, optimizer, saved_names: dict[str, str]) -> None:
    """Load the optimizer's state by the structured names of the weights.

    Paddle keys the state by names that count up over the whole process, so a second model in one process, or a
    model built after another, would find nothing under them.
    """
    current = {name: p.name for name, p in model.named_parameters()}
    renamed = {}
    for key, value in read_arrays(file).items():
        owner = max((name for name in saved_names if key.startswith(name + '_')), key=len, default=None)
        if owner is not None:
            key = current[saved_names[owner]] + key[len(owner):]
        if key == 'master_weights':
            value = {current[saved_names[name]] if name in saved_names else name: weight
                     for name, weight in value.items()}
        renamed[key] = value
    optimizer.set_state_dict(renamed)


def find_checkpoint(what: str, save_dir: Path) -> Path | None:
    """The checkpoint folder that `--resume_model` names.

    Args:
        what: an iter_N folder, `best_model`, a run folder (its newest checkpoint), or 'auto': the newest checkpoint
            of `save_dir`, or None when there is none yet.
    """
    if what == 'auto':
        return _newest(save_dir)
    folder = Path(what)
    if not folder.exists() and (save_dir / what).is_dir():
        folder = save_dir / what
    if not folder.is_dir():
        raise UserError(f'--resume_model {what}: no such folder; give an iter_N folder, best_model, a run folder or auto.')
    if (folder / FILE_NAME).exists():
        return folder
    newest = _newest(folder)
    if newest is None:
        raise UserError(f'--resume_model {what}: neither {FILE_NAME} nor an iter_N folder is in it.')
    return newest


def _iterations(save_dir: Path) -> list[tuple[int, Path]]:
    found = ((re.fullmatch(r'iter_(\d+)', path.name), path) for path in save_dir.glob('iter_*'))
    return sorted((int(match.group(1)), path) for match, path in found if match and (path / FILE_NAME).exists())


def _newest(save_dir: Path) -> Path | None:
    iterations = _iterations(save_dir)
    return iterations[-1][1] if iterations else None


def tidy(save_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` iter_N folders; best_model stays."""
    for _, folder in _iterations(save_dir)[:-keep]:
        shutil.rmtree(folder)

"""A training state on disk: `save_dir/iter_N/` and `save_dir/best_model/`, each whole or not there at all.

    model.pdparams            the weights to use: the moving average where one is kept, else those of the last step
    model_training.pdparams   the weights of the last step, where model.pdparams is the average
    model.pdopt               optimizer and schedule
    model.pdscaler            loss scaler, if there is one
    state.json                iteration, seed, best score

The model and optimizer files are in PaddleSeg's format. Everything random in a training is a function of the seed, the
rank and the iteration (`engine/sampling.py`), so seed and iteration are the whole state of the random numbers.
"""
from __future__ import annotations

import json
import logging
import re
import shutil
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import paddle
from paddle import nn

from paddleseg_ext.checkpoints.reading import read_arrays, read_parameter_names
from paddleseg_ext.checkpoints.weights import FILE_NAME, fill, numbered_checkpoints, own_weights
from paddleseg_ext.errors import UserError
from paddleseg_ext.files import atomic_folder, finish_interrupted_writes

__all__ = ['Progress', 'claim', 'find_checkpoint', 'restore', 'save', 'tidy']

BEST = 'best_model'
STATE_FILE = 'state.json'
TRAINING_FILE = 'model_training.pdparams'
OPTIMIZER_FILE = 'model.pdopt'
SCALER_FILE = 'model.pdscaler'
SET_ASIDE = 'replaced_'

log = logging.getLogger('paddleseg_ext')


@dataclass
class Progress:
    """How far a training has come.

    `best_score` is the best validation mIoU so far (-1 before the first), reached at `best_iteration`; the last
    validation was at `evaluated_iteration`. `seed` is None where a checkpoint of PaddleSeg does not tell it.
    """
    iteration: int = 0
    seed: int | None = None
    best_score: float = -1.
    best_iteration: int = 0
    evaluated_iteration: int = 0


def save(folder: Path, model: nn.Layer, optimizer, progress: Progress, *, average: nn.Layer | None = None,
         scaler=None) -> None:
    """Write a complete training state, atomically."""
    with atomic_folder(folder) as temporary:
        paddle.save(own_weights((average or model).state_dict()), str(temporary / FILE_NAME))
        if average is not None:
            paddle.save(own_weights(model.state_dict()), str(temporary / TRAINING_FILE))
        paddle.save(optimizer.state_dict(), str(temporary / OPTIMIZER_FILE))
        if scaler is not None:
            paddle.save(scaler.state_dict(), str(temporary / SCALER_FILE))
        (temporary / STATE_FILE).write_text(json.dumps(asdict(progress), indent=1) + '\n')


def restore(folder: Path, model: nn.Layer, optimizer, *, average: nn.Layer | None = None, scaler=None) -> Progress:
    """Load what `save` wrote.

    A checkpoint without moving average or scaler, where one is wanted, starts the average from the weights and the
    scaler afresh. Folders of PaddleSeg, which have no state file, give the iteration of their name.

    Raises:
        UserError: a file is missing or does not fit.
    """
    progress = _read_progress(folder)
    last = folder / TRAINING_FILE
    last = last if last.exists() else folder / FILE_NAME
    fill(model, read_arrays(last), source=str(last))
    _restore_optimizer(folder / OPTIMIZER_FILE, model, optimizer, read_parameter_names(last))
    if average is not None:
        fill(average, read_arrays(folder / FILE_NAME), source=str(folder / FILE_NAME))
    if scaler is not None and (folder / SCALER_FILE).exists():
        scaler.load_state_dict(read_arrays(folder / SCALER_FILE))
    return progress


def _read_progress(folder: Path) -> Progress:
    file = folder / STATE_FILE
    if file.exists():
        try:
            state = json.loads(file.read_text())
            return Progress(**{field.name: state[field.name] for field in fields(Progress)})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{file} is damaged ({type(error).__name__}: {error}); resume from another '
                            'checkpoint.') from error
    match = re.fullmatch(r'iter_(\d+)', folder.name)
    if match is None:
        raise UserError(f'{folder} has no {STATE_FILE} and is not named iter_N, so its iteration is unknown; resume '
                        'from an iter_N folder.')
    return Progress(iteration=int(match.group(1)))


def _restore_optimizer(file: Path, model: nn.Layer, optimizer, saved_names: dict[str, str]) -> None:
    """Load the optimizer's state by the structured names of the weights.

    Paddle keys the state by names that count up over the whole process, so a second model in one process, or a
    model built after another, would find nothing under them. `saved_names` has the structured names of those keys.
    """
    current = {name: parameter.name for name, parameter in model.named_parameters()}
    state = {}
    for key, value in read_arrays(file).items():
        if key == 'master_weights':
            state[key] = {current[saved_names[name]]: weight for name, weight in value.items()}
        elif key == 'LR_Scheduler':
            state[key] = value
        else:
            owner = max((name for name in saved_names if key.startswith(name + '_')), key=len, default=None)
            if saved_names.get(owner) not in current:
                raise UserError(f'{file}: {key} belongs to no weight of {type(model).__name__}; resume from a '
                                'checkpoint of the same model, or start a new training with model.pretrained.')
            state[current[saved_names[owner]] + key[len(owner):]] = value
    _require_same_schedule(state.get('LR_Scheduler', {}), optimizer.state_dict().get('LR_Scheduler', {}), file)
    with warnings.catch_warnings():
        # NOTE: Paddle's LinearWarmup stores one more key than it expects back, and then warns about it.
        warnings.filterwarnings('ignore', message='There are some unused values in state_dict')
        optimizer.set_state_dict(state)


def _require_same_schedule(saved: dict, wanted: dict, file: Path) -> None:
    if saved.keys() != wanted.keys():
        raise UserError(f'{file} was saved with another kind of learning-rate schedule (its state is {sorted(saved)}, '
                        f'that of lr_scheduler here {sorted(wanted)}); resume with the configuration of the '
                        'checkpoint.')


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
        raise UserError(f'--resume_model {what}: no such folder; give an iter_N folder, best_model, a run folder or '
                        'auto.')
    if (folder / FILE_NAME).exists():
        return folder
    newest = _newest(folder)
    if newest is None:
        raise UserError(f'--resume_model {what}: neither {FILE_NAME} nor an iter_N folder is in it.')
    return newest


def _newest(save_dir: Path) -> Path | None:
    iterations = numbered_checkpoints(save_dir)
    return iterations[-1][1] if iterations else None


def claim(save_dir: Path, checkpoint: Path | None, progress: Progress) -> None:
    """Make `save_dir` the folder of a training that starts at `progress`, restored from `checkpoint` if not None.

    What a killed process left half-written is removed. Checkpoints of later iterations, from which the training
    branches off, are renamed to replaced_…, because the next `auto` would take them for its own. When the checkpoint
    comes from another folder, its best_model is copied here.

    Raises:
        UserError: `save_dir` holds another training.
    """
    save_dir.mkdir(parents=True, exist_ok=True)
    finish_interrupted_writes(save_dir)
    if checkpoint is None:
        return
    if checkpoint.parent.resolve() != save_dir.resolve():
        if _newest(save_dir) is not None:
            raise UserError(f'{save_dir} already holds another training than {checkpoint}; choose another --save_dir.')
        best = checkpoint if checkpoint.name == BEST else checkpoint.parent / BEST
        if (best / STATE_FILE).exists() and _read_progress(best).iteration == progress.best_iteration:
            with atomic_folder(save_dir / BEST) as temporary:
                shutil.copytree(best, temporary, dirs_exist_ok=True)
        return
    for iteration, folder in numbered_checkpoints(save_dir):
        if iteration > progress.iteration:
            _set_aside(folder)


def _set_aside(folder: Path) -> None:
    target = folder.with_name(SET_ASIDE + folder.name)
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    log.warning('%s is of a later iteration than the checkpoint to resume from; it is now called %s', folder,
                target.name)


def tidy(save_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` iter_N folders; best_model stays."""
    for _, folder in numbered_checkpoints(save_dir)[:-keep]:
        shutil.rmtree(folder)

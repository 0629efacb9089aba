"""A tiny training in this process: its configuration, running it, and reading what it left."""
from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import yaml

from paddleseg_ext.checkpoints.reading import read_arrays, read_parameter_names

NORMALIZE = {'type': 'Normalize', 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}


def training_tree(scenes: Path) -> dict:
    """A small valid configuration as a dictionary: RTFormer with 8 base channels, batch 2, 4 iterations."""
    dataset = {'type': 'SyntheticScenes', 'dataset_root': str(scenes)}
    return copy.deepcopy({
        'batch_size': 2,
        'iters': 4,
        'train_dataset': {**dataset, 'mode': 'train', 'transforms': [
            {'type': 'RandomPaddingCrop', 'crop_size': [64, 64]},
            {'type': 'RandomHorizontalFlip'},
            {'type': 'RandomDistort'},
            NORMALIZE]},
        'val_dataset': {**dataset, 'mode': 'val', 'transforms': [NORMALIZE]},
        'optimizer': {'type': 'AdamW', 'weight_decay': 0.01},
        'lr_scheduler': {'type': 'PolynomialDecay', 'learning_rate': 0.001, 'end_lr': 0., 'power': 0.9},
        'loss': {'types': [{'type': 'CrossEntropyLoss'}], 'coef': [1, 0.4]},
        'model': {'type': 'RTFormer', 'num_classes': 9, 'base_channels': 8, 'head_channels': 8, 'spp_channels': 8,
                  'cross_size': 4, 'lr_mult': 1.},
    })


def train_tree(tree: dict, save_dir: Path, *, seed: int | None = 1, **options):
    """Train a tree in this process; options as `TrainOptions`. Returns the progress."""
    from paddleseg_ext.config import load_config, make_builder
    from paddleseg_ext.engine.train import TrainOptions, train
    save_dir.parent.mkdir(parents=True, exist_ok=True)
    path = save_dir.parent / f'{save_dir.name}.yml'
    path.write_text(yaml.safe_dump(tree))
    return train(make_builder(load_config(path)), TrainOptions(save_dir=save_dir, seed=seed, **options))


def records(save_dir: Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (save_dir / 'metrics.jsonl').read_text().splitlines()]


def state(folder: Path) -> dict:
    """state.json of a checkpoint."""
    return json.loads((folder / 'state.json').read_text())


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint under names that do not depend on what else the process has built."""
    found = {}
    for file in sorted(folder.glob('*.pdparams')):
        found.update({f'{file.name}:{name}': value for name, value in read_arrays(file).items()})
    training = folder / 'model_training.pdparams'
    names = read_parameter_names(training if training.exists() else folder / 'model.pdparams')
    for key, value in read_arrays(folder / 'model.pdopt').items():
        owner = max((name for name in names if key.startswith(name + '_')), key=len, default=None)
        if owner is not None:
            found[f'optimizer:{names[owner]}{key[len(owner):]}'] = value
    return found


def assert_same_training(folder: Path, other: Path) -> None:
    """Weights, average and optimizer of two checkpoints are bitwise equal."""
    ours, theirs = arrays(folder), arrays(other)
    assert sorted(ours) == sorted(theirs)
    assert any(name.startswith('optimizer:') for name in ours)
    different = [name for name in ours if not np.array_equal(ours[name], theirs[name])]
    assert different == []

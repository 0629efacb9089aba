"""Fixtures for all tests: a tiny embedded data set and a tiny configuration over it."""
from __future__ import annotations

import copy

import pytest
import yaml

from paddleseg_ext.data.synth import write_scenes

NORMALIZE = {'type': 'Normalize', 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    """Folder of an embedded data set: 8 training and 4 validation images of 96×64 pixels, 9 classes."""
    folder = tmp_path_factory.mktemp('data') / 'scenes'
    write_scenes(folder, train=8, val=4, width=96, height=64, seed=0)
    return folder


@pytest.fixture
def tiny_tree(scenes):
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


@pytest.fixture
def write_yaml(tmp_path):
    """Function that writes a tree as YAML under the test's folder and returns its path."""

    def write(tree, name='config.yml'):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(tree))
        return path

    return write

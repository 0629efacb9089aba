"""Fixtures for all tests: a tiny embedded data set and a tiny configuration over it."""
from __future__ import annotations

import logging

import pytest
import yaml
from tiny_training import training_tree

from paddleseg_ext import environment
from paddleseg_ext.data.synth import write_scenes

environment.choose_matrix_kernels()  # as the command does


@pytest.fixture(autouse=True)
def log_as_before():
    """Undo what running the command in this process does to the log, so that caplog sees it again."""
    log = logging.getLogger('paddleseg_ext')
    handlers, propagate, level = list(log.handlers), log.propagate, log.level
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    """Folder of an embedded data set: 8 training and 4 validation images of 96×64 pixels, 9 classes."""
    folder = tmp_path_factory.mktemp('data') / 'scenes'
    write_scenes(folder, train=8, val=4, width=96, height=64, seed=0)
    return folder


@pytest.fixture
def tiny_tree(scenes):
    """A small valid configuration as a dictionary: RTFormer with 8 base channels, batch 2, 4 iterations."""
    return training_tree(scenes)


@pytest.fixture
def write_yaml(tmp_path):
    """Function that writes a tree as YAML under the test's folder and returns its path."""

    def write(tree, name='config.yml'):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(tree))
        return path

    return write

"""Checks of data sets' modes and of every path that the configuration names."""
from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from paddleseg_ext.config.review import Finding, Part, Review

__all__ = ['check_modes', 'check_paths']

DATASET_MODES = ('train', 'val', 'test')
# What is fetched, not read from here.
REMOTE_STARTS = ('http://', 'https://', 'timm/')


def check_modes(review: Review) -> Iterator[Finding]:
    """`Dataset` has the list of its mode, and nothing is evaluated on the training part by oversight."""
    for part in review.datasets:
        mode, path = part.effective('mode'), (*part.path, 'mode')
        if part.name == 'Dataset' and isinstance(mode, str):
            if mode.lower() not in DATASET_MODES:
                yield path, f'must be one of {", ".join(DATASET_MODES)}, got {mode!r}'
            elif part.value(f'{mode.lower()}_path') is None:
                yield (*part.path, f'{mode.lower()}_path'), f'missing, mode {mode} reads the images from it'
        if part.path == ('val_dataset',) and mode == 'train':
            why = '' if 'mode' in part.node.value else f', the default of {part.name}'
            yield path, f'is train{why}: training images would be evaluated; write `mode: val`'


def check_paths(review: Review) -> Iterator[Finding]:
    """Every file and folder that will be read is there; relative paths count from the current folder."""
    for part in review.datasets:
        for name in _folder_and_list_names(part):
            yield from _existing(part, name, part.effective(name))
    for part in review.parts:
        value = part.value('pretrained')
        if isinstance(value, str) and not value.startswith(REMOTE_STARTS):
            yield from _existing(part, 'pretrained', value)


def _folder_and_list_names(part: Part) -> list[str]:
    names = [name for name in (part.signature.arguments if part.signature else ()) if name.endswith('_root')]
    mode = part.effective('mode')
    return [*names, f'{mode.lower()}_path'] if part.name == 'Dataset' and isinstance(mode, str) else names


def _existing(part: Part, name: str, value: object) -> Iterator[Finding]:
    if not isinstance(value, str) or os.path.exists(value):
        return
    default = '' if name in part.node.value else f' (the default of {part.name})'
    yield (*part.path, name), f'{value}{default} does not exist, looked from {os.getcwd()}{_neighbour(Path(value))}'


def _neighbour(path: Path) -> str:
    """The entry beside a missing path whose name comes nearest."""
    parent = path.parent
    if not parent.is_dir():
        return f'; {parent} is not there either'
    near = difflib.get_close_matches(path.name, os.listdir(parent), n=1, cutoff=0.6)
    return f', did you mean {parent / near[0]}?' if near else ''

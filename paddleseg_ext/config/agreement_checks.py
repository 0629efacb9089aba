"""Checks across sections: what the model, the data, the losses and the transforms must agree on."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from paddleseg_ext.config.review import Finding, Part, Review, dataset_fact
from paddleseg_ext.config.value_kinds import kind_problem

__all__ = ['check_channels', 'check_class_weights', 'check_ignore_index', 'check_normalization', 'check_num_classes',
           'check_output_count', 'check_same_dataset_kind']


def check_same_dataset_kind(review: Review) -> Iterator[Finding]:
    """PaddleSeg's rule: `Dataset` for training needs `Dataset` for validation."""
    train, val = review.part('train_dataset'), review.part('val_dataset')
    if train and val and train.name == 'Dataset' and val.component and val.name != 'Dataset':
        yield ('val_dataset', 'type'), f'must be Dataset like train_dataset, got {val.name}'


def check_num_classes(review: Review) -> Iterator[Finding]:
    """The model and every data set have the same number of classes."""
    model = review.section('model').get('num_classes')
    facts = [(('model', 'num_classes'), model, 'model')] if _is_whole(model) else []
    facts += [((*part.path, 'num_classes'), dataset_fact(part, 'num_classes'), f'{part.path[0]} ({part.name})')
              for part in review.datasets if _is_whole(dataset_fact(part, 'num_classes'))]
    yield from _disagreements(review, 'num_classes', facts)
    for path, value, _ in facts:
        if value < 1:
            yield path, f'must be at least 1, got {value}'


def check_channels(review: Review) -> Iterator[Finding]:
    """The model takes as many channels as the images have."""
    section = review.section('model')
    nested = isinstance(section.get('backbone'), dict)
    own = (section['backbone'] if nested else section).get('in_channels')
    path = ('model', 'backbone', 'in_channels') if nested else ('model', 'in_channels')
    facts = [(path, own, 'model')] if _is_whole(own) else []
    facts += [((*part.path, 'img_channels'), dataset_fact(part, 'img_channels'), f'{part.path[0]} ({part.name})')
              for part in review.datasets if _is_whole(dataset_fact(part, 'img_channels'))]
    yield from _disagreements(review, 'number of channels', facts)


def check_ignore_index(review: Review) -> Iterator[Finding]:
    """Data sets and losses ignore the same label."""
    facts = [((*part.path, 'ignore_index'), dataset_fact(part, 'ignore_index'), f'{part.path[0]} ({part.name})')
             for part in review.datasets if _is_whole(dataset_fact(part, 'ignore_index'))]
    if facts:
        facts += [((*part.path, 'ignore_index'), part.value('ignore_index'), part.name) for part in review.losses
                  if _is_whole(part.value('ignore_index'))]
    yield from _disagreements(review, 'ignore_index', facts)


def _disagreements(review: Review, what: str, facts: list[tuple[tuple, Any, str]]) -> Iterator[Finding]:
    """One finding per fact that differs from the first, at a key that the YAML has."""
    for path, value, who in facts[1:]:
        first_path, first, first_who = facts[0]
        if value != first:
            here, there = (path, first_path) if review.root.at(path) is not None else (first_path, path)
            where = review.root.nearest(there).where
            yield here, f'{what} of {first_who} is {first}, but of {who} it is {value} (see {where}); make them equal'


def check_output_count(review: Review) -> Iterator[Finding]:
    """As many weights in `loss.coef` as the model has outputs in training.

    Known for models whose class has `training_outputs(model_cfg) -> int`; for others the first training step tells.
    """
    part, weights = review.part('model'), review.section('loss').get('coef')
    count = getattr(part.component, 'training_outputs', None) if part else None
    if count is None or not isinstance(weights, list):
        return
    outputs = count(part.node.plain())
    if outputs != len(weights):
        yield ('loss', 'coef'), (f'{len(weights)} weights, but {part.name} has {outputs} outputs in training with '
                                 f'these arguments; give {outputs} weights')


def check_class_weights(review: Review) -> Iterator[Finding]:
    """A list of class weights has one weight per class."""
    for part in review.losses:
        weights = part.value('weight')
        if not isinstance(weights, list) or part.name == 'BCELoss':
            continue
        if review.num_classes is not None and len(weights) != review.num_classes:
            yield (*part.path, 'weight'), f'{len(weights)} class weights for {review.num_classes} classes'
        for index, weight in enumerate(weights):
            message = kind_problem(weight, ('float',))
            if message:
                yield (*part.path, 'weight', index), message


def check_normalization(review: Review) -> Iterator[Finding]:
    """Normalize has one mean and deviation per channel, or one for all, and no deviation is 0."""
    for part in review.parts:
        if part.name == 'Normalize' and part.found_kind == 'transform':
            for key in ('mean', 'std'):
                yield from _normalization(part, key, review.channels)


def _normalization(part: Part, key: str, channels: int) -> Iterator[Finding]:
    values = part.value(key)
    if not isinstance(values, list):
        return
    if len(values) not in (1, channels):
        yield (*part.path, key), f'{len(values)} values for images of {channels} channels; give 1 or {channels}'
    for index, value in enumerate(values):
        message = kind_problem(value, ('float',))
        if message is None and key == 'std' and not value > 0:
            message = f'must be above 0, got {value}'
        if message:
            yield (*part.path, key, index), message


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

"""`optimizer.custom_cfg`: groups do what they say, useless entries are refused, and a resume keeps them."""
from __future__ import annotations

import shutil

import numpy as np
import paddle
import pytest
from paddle import nn
from tiny_training import assert_same_training, train_tree, training_tree

from paddleseg_ext import compat
from paddleseg_ext.config import load_config, make_builder
from paddleseg_ext.config.parameter_groups import require_groups_match
from paddleseg_ext.errors import UserError

compat.apply()

NO_DECAY = [{'name': 'norm', 'weight_decay_mult': 0.0}, {'name': 'position', 'weight_decay_mult': 0.0}]
DECAY, RATE = 0.5, 0.1


class Small(nn.Layer):
    """Weights of the kinds that recipes name, all of them 1; those of `quick` learn ten times as fast."""

    def __init__(self):
        super().__init__()
        ones = nn.initializer.Constant(1.0)
        self.body = nn.Linear(3, 3, weight_attr=ones, bias_attr=ones)
        self.norm1 = nn.LayerNorm(3, bias_attr=ones)
        self.position = nn.Linear(3, 3, weight_attr=ones, bias_attr=ones)
        self.quick = nn.Linear(3, 3, weight_attr=paddle.ParamAttr(initializer=ones, learning_rate=10.0), bias_attr=ones)
        self.frozen = nn.Linear(3, 3, weight_attr=ones, bias_attr=ones)
        for weight in self.frozen.parameters():
            weight.stop_gradient = True


def after_steps(kind, groups, *, steps=1, model=None, **arguments):
    """Weights by name after steps whose gradients are all 0, so that nothing but the decay changes them."""
    from paddleseg_ext.registry import components
    model = model or Small()
    schedule = paddle.optimizer.lr.PolynomialDecay(RATE, decay_steps=4, end_lr=0.0, power=1.0)
    optimizer = components('optimizer')[kind](weight_decay=DECAY, custom_cfg=groups, **arguments)(model, schedule)
    for _ in range(steps):
        (sum(weight.sum() for weight in model.parameters()) * 0).backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    values = {name: np.unique(weight.numpy()) for name, weight in model.named_parameters()}
    assert all(len(value) == 1 for value in values.values())
    return {name: float(value[0]) for name, value in values.items()}


@pytest.mark.parametrize('kind', ['AdamW', 'SGD', 'Momentum'])
def test_groups_without_decay_keep_their_weights(kind):
    left = after_steps(kind, NO_DECAY)
    expected = dict.fromkeys(left, 1 - RATE * DECAY)
    expected.update({name: 1.0 for name in left if 'norm' in name or 'position' in name or 'frozen' in name})
    expected['quick.weight'] = 1 - 10 * RATE * DECAY
    assert left == pytest.approx(expected, rel=1e-6)
    assert after_steps(kind, None) == pytest.approx(
        {**dict.fromkeys(left, 1 - RATE * DECAY), 'quick.weight': 1 - 10 * RATE * DECAY, 'frozen.weight': 1.0,
         'frozen.bias': 1.0}, rel=1e-6)


def test_adam_moves_nothing_in_a_group_without_decay():
    # Its decay is a gradient, whose size Adam takes out again.
    left = after_steps('Adam', NO_DECAY)
    assert {name for name, value in left.items() if value == 1.0} == {
        name for name in left if 'norm' in name or 'position' in name or 'frozen' in name}


def test_factors_of_rate_and_decay():
    left = after_steps('AdamW', [{'name': 'position', 'lr_mult': 0.1}, {'name': 'body', 'weight_decay_mult': 3},
                                 {'name': 'quick', 'lr_mult': 0.5, 'weight_decay_mult': 0.5}])
    assert left['position.weight'] == pytest.approx(1 - 0.1 * RATE * DECAY)
    assert left['body.bias'] == pytest.approx(1 - RATE * 3 * DECAY)
    assert left['quick.bias'] == pytest.approx(1 - 0.5 * RATE * 0.5 * DECAY)
    assert left['quick.weight'] == pytest.approx(1 - 0.5 * 10 * RATE * 0.5 * DECAY)
    assert left['norm1.weight'] == pytest.approx(1 - RATE * DECAY)


def test_the_schedule_is_applied_once():
    left = after_steps('AdamW', NO_DECAY, steps=3)
    rates = [RATE, RATE * 3 / 4, RATE * 2 / 4]
    assert left['body.weight'] == pytest.approx(np.prod([1 - rate * DECAY for rate in rates]))
    assert left['norm1.weight'] == 1.0


def test_the_first_matching_entry_counts():
    left = after_steps('AdamW', [{'name': 'body.weight', 'weight_decay_mult': 0}, {'name': 'body', 'lr_mult': 2.0}])
    assert left['body.weight'] == 1.0
    assert left['body.bias'] == pytest.approx(1 - 2 * RATE * DECAY)


def test_factors_of_the_model_do_not_pile_up():
    model = Small()
    for _ in range(2):
        after_steps('AdamW', [{'name': 'quick', 'lr_mult': 0.5}], steps=0, model=model)
    assert model.quick.weight.optimize_attr['learning_rate'] == 5.0
    assert model.quick.bias.optimize_attr['learning_rate'] == 0.5


NAMES = [('backbone.stages.0.norm1.weight', True), ('backbone.stages.0.position.proj.weight', True),
         ('head.classifier.weight', True), ('stem.weight', False)]


@pytest.mark.parametrize('names, message', [
    (['norm', 'positon'], r"custom_cfg\.1: no trainable weight is left for name 'positon': it is in no name of the "
                          r"model; did you mean 'position'\?"),
    (['pos_block'], r"custom_cfg\.0: .*'pos_block'.*names are made of backbone, stages, norm1, weight, position, proj"),
    (['backbone', 'norm', 'head'], r"custom_cfg\.1: .*'norm': all 1 whose names have it belong to the earlier entries "
                                   r"'backbone'; put this entry before them"),
    (['norm', 'position', 'backbone'], r"custom_cfg\.2: .*'backbone': all 2 .* earlier entries 'norm', 'position'"),
    (['stem'], r"custom_cfg\.0: .*'stem': all 1 whose names have it are frozen; remove the entry"),
])
def test_entries_that_would_do_nothing(names, message):
    with pytest.raises(UserError, match=message):
        require_groups_match([{'name': name} for name in names], NAMES)


def test_entries_that_take_something():
    require_groups_match([{'name': 'norm'}, {'name': 'backbone'}, {'name': 'weight'}], NAMES)
    require_groups_match([], NAMES)


def test_refused_when_the_optimizer_is_built(tiny_tree, write_yaml):
    tiny_tree['optimizer']['custom_cfg'] = [{'name': 'bn', 'weight_decay_mult': 0.0}, {'name': 'attnn', 'lr_mult': 2.0}]
    builder = make_builder(load_config(write_yaml(tiny_tree)))
    with pytest.raises(UserError, match=r"optimizer\.custom_cfg\.1: no trainable weight is left for name 'attnn'"):
        assert builder.optimizer


def test_refused_before_training_begins(scenes, tmp_path):
    tree = training_tree(scenes)
    tree['optimizer']['custom_cfg'] = [{'name': 'nowhere'}]
    with pytest.raises(UserError, match="name 'nowhere': it is in no name of the model"):
        train_tree(tree, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_resumed_training_keeps_its_groups(scenes, tmp_path):
    tree = training_tree(scenes)
    tree['model']['lr_mult'] = 10.0
    tree['optimizer'].update(weight_decay=0.3, custom_cfg=[{'name': 'bn', 'weight_decay_mult': 0.0},
                                                           {'name': 'layer1', 'lr_mult': 0.5}])
    tree['lr_scheduler'].update(warmup_iters=1, warmup_start_lr=1e-5)
    train_tree(tree, tmp_path / 'straight', save_interval=2)
    (tmp_path / 'resumed').mkdir()
    shutil.copytree(tmp_path / 'straight' / 'iter_2', tmp_path / 'resumed' / 'iter_2')
    train_tree(tree, tmp_path / 'resumed', save_interval=2, resume_model='auto')
    assert_same_training(tmp_path / 'straight' / 'iter_4', tmp_path / 'resumed' / 'iter_4')
    without = {**tree, 'optimizer': {'type': 'AdamW', 'weight_decay': 0.3}}
    train_tree(without, tmp_path / 'without', save_interval=4)
    with pytest.raises(AssertionError):
        assert_same_training(tmp_path / 'straight' / 'iter_4', tmp_path / 'without' / 'iter_4')

"""RTFormer against PaddleSeg's class of that name, and what it promises beyond it."""
from __future__ import annotations

import inspect
import re
import subprocess
import sys

import numpy as np
import paddle
import pytest
from cases import images, relative_difference, set_visible_weights
from paddleseg.models.rtformer import RTFormer as Reference

from paddleseg_ext.models.rtformer import RTFormer
from paddleseg_ext.registry import components

BASE, SLIM = {'base_channels': 64, 'head_channels': 128}, {'base_channels': 32, 'head_channels': 64}
# The four released configurations (spec/models.md §1).
RELEASED = {
    'base_cityscapes': {**BASE, 'num_classes': 19, 'use_injection': [True, False], 'drop_path_rate': 0.2},
    'base_ade20k': {**BASE, 'num_classes': 150, 'use_injection': [True, False], 'drop_path_rate': 0.1},
    'slim_cityscapes': {**SLIM, 'num_classes': 19, 'use_injection': [True, True], 'drop_path_rate': 0.2},
    'slim_ade20k': {**SLIM, 'num_classes': 150, 'use_injection': [True, False], 'drop_path_rate': 0.1,
                    'cross_size': 8},
}
SIZES = ((512, 1024), (200, 333), (64, 64), (97, 65))
NARROW = {'num_classes': 5, 'base_channels': 8, 'head_channels': 8, 'spp_channels': 8, 'cross_size': 4,
          'drop_path_rate': 0.}
# Narrow models that use every argument in another way than the released ones.
VARIANTS = {
    'default': {},
    'one_and_three_blocks': {'layer_nums': [1, 3, 1, 2]},
    'four_heads': {'num_heads': 4},
    'no_injection': {'use_injection': [False, False]},
    'no_auxiliary_head': {'use_aux_head': False},
    'four_input_channels': {'in_channels': 4},
}


def pair(*, seed=0, **arguments):
    """Ours and the reference with the same visible weights, in evaluation mode."""
    models = RTFormer(**arguments), Reference(**arguments)
    for model in models:
        set_visible_weights(model, seed=seed)
        model.eval()
    return models


def forward(model, maps: np.ndarray) -> np.ndarray:
    with paddle.no_grad():
        [logit] = model(paddle.to_tensor(maps))
    return logit.numpy()


# Equal to the reference

@pytest.fixture(scope='module', params=list(RELEASED))
def released_pair(request):
    return pair(**RELEASED[request.param])


@pytest.mark.parametrize('size', SIZES, ids=lambda size: f'{size[0]}x{size[1]}')
@pytest.mark.parametrize('batch', [1, 2])
def test_released_configurations_give_the_references_logits(released_pair, batch, size):
    ours, reference = released_pair
    maps = images(batch, size)
    expected = forward(reference, maps)
    assert expected[..., ::8, ::8].std() > 0.5, 'logits that hardly vary would agree too easily'
    assert relative_difference(forward(ours, maps), expected) <= 1e-5


def test_every_weight_shows_in_the_comparison():
    """The parity above means something: a change of any part of the weights changes the logits."""
    model, _ = pair(**NARROW)
    maps = images(1, (64, 96))
    before = forward(model, maps)
    for name, tensor in model.state_dict().items():
        # The double normalisation does not see what is added to all positions alike, nor evaluation the second head.
        if re.search(r'attn_l\.norm\.(bias|_mean)$|^seghead_extra', name):
            continue
        value = tensor.numpy().copy()
        tensor.set_value(value * 1.5 + 0.1)
        assert relative_difference(forward(model, maps), before) > 1e-4, name
        tensor.set_value(value)


@pytest.mark.parametrize('variant', list(VARIANTS))
def test_training_gives_the_references_outputs_gradients_and_statistics(variant):
    arguments = {**NARROW, **VARIANTS[variant]}
    reference = Reference(**arguments)
    ours = RTFormer(**arguments, bn_momentum=0.1)
    maps = images(2, (64, 96), channels=arguments.get('in_channels', 3))
    outputs = {}
    for model in (ours, reference):
        set_visible_weights(model)
        model.train()
        outputs[model] = model(paddle.to_tensor(maps))
        sum(coefficient * (output**2).mean() for coefficient, output in zip((1., 0.4), outputs[model])).backward()
    assert len(outputs[ours]) == len(outputs[reference]) == (1 if variant == 'no_auxiliary_head' else 2)
    for logit, expected in zip(outputs[ours], outputs[reference]):
        assert relative_difference(logit.numpy(), expected.numpy()) <= 1e-5
    theirs = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.stop_gradient:
            assert relative_difference(parameter.numpy(), theirs[name].numpy()) <= 1e-5, name
        else:
            # NOTE: the absolute part is for biases before a normalisation, whose gradient is nothing but rounding.
            np.testing.assert_allclose(parameter.grad.numpy(), theirs[name].grad.numpy(), rtol=0., err_msg=name,
                                       atol=1e-4 * np.abs(theirs[name].grad.numpy()).max() + 1e-5)


@pytest.mark.parametrize('attention', ['ea', 'mhea'])
def test_other_attentions_differ_from_the_published_one(attention):
    published, other = RTFormer(**NARROW), RTFormer(**NARROW, attention=attention)
    for model in (published, other):
        set_visible_weights(model)
        model.eval()
    maps = images(1, (64, 64))
    assert relative_difference(forward(other, maps), forward(published, maps)) > 1e-3


def parameters(model) -> dict:
    return {name: (list(parameter.shape), parameter.stop_gradient, parameter.optimize_attr['learning_rate'])
            for name, parameter in model.named_parameters()}


@pytest.mark.parametrize('name', list(RELEASED))
def test_names_shapes_and_learning_rates_are_the_references(name):
    ours, reference = RTFormer(**RELEASED[name]), Reference(**RELEASED[name])
    assert parameters(ours) == parameters(reference)
    assert set(ours.state_dict()) == set(reference.state_dict())
    rates = {name.split('.')[0]: rate for name, (_, frozen, rate) in parameters(ours).items() if not frozen}
    assert {part for part, rate in rates.items() if rate == 10.} == {'spp', 'seghead', 'seghead_extra'}


def test_fresh_weights_are_spread_as_the_references():
    paddle.seed(0)
    ours, reference = RTFormer(19), Reference(19)
    theirs = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        value, expected = parameter.numpy(), theirs[name].numpy()
        if expected.std() == 0:
            np.testing.assert_array_equal(value, expected, err_msg=name)
        else:
            assert abs(value.std() / expected.std() - 1) < 5 / np.sqrt(value.size), name
            assert abs(value.mean()) < 5 * expected.std() / np.sqrt(value.size), name


def count(model, *, auxiliary=True) -> int:
    return sum(parameter.size for name, parameter in model.named_parameters()
               if not parameter.stop_gradient and (auxiliary or not name.startswith('seghead_extra')))


# Millions with 19 classes, as spec/models.md counts all of them.
@pytest.mark.parametrize(('name', 'millions', 'auxiliary'), [
    ('base_cityscapes', 17.92, True), ('base_cityscapes', 17.77, False), ('slim_cityscapes', 5.40, True),
    ('slim_ade20k', 5.03, True)])
def test_parameter_counts(name, millions, auxiliary):
    model = RTFormer(**{**RELEASED[name], 'num_classes': 19})
    assert round(count(model, auxiliary=auxiliary) / 1e6, 2) == millions


# Arguments

def test_the_references_arguments_come_first_with_the_same_defaults():
    theirs = list(inspect.signature(Reference).parameters.values())
    ours = list(inspect.signature(RTFormer).parameters.values())
    for mine, expected in zip(ours, theirs):
        assert mine.name == expected.name
        default = list(mine.default) if isinstance(mine.default, tuple) else mine.default
        assert default == expected.default
    assert [extra.name for extra in ours[len(theirs):]] == ['attention', 'bn_momentum', 'pretrained_allow']


def test_all_arguments_by_position_and_by_name():
    values = (7, [1, 1, 1, 1], 8, 8, 4, 8, 0.1, 0.3, True, [True, False], 5., 3, 6, None)
    names = list(inspect.signature(Reference).parameters)
    positional, named = RTFormer(*values), RTFormer(**dict(zip(names, values)))
    assert parameters(positional) == parameters(named) == parameters(Reference(*values))
    assert positional.layer4.drop_path.rate == named.layer4.drop_path.rate == 0.3
    assert positional.layer4.mlp_l.drop.p == named.layer4.mlp_l.drop.p == 0.1


@pytest.mark.parametrize('channels', [1, 3, 4, 6])
def test_input_channels(channels):
    model = RTFormer(**NARROW, in_channels=channels)
    model.eval()
    assert forward(model, images(2, (64, 64), channels=channels)).shape == (2, 5, 64, 64)


@pytest.mark.parametrize(('arguments', 'text'), [
    ({'num_classes': 0}, 'num_classes must be a whole number of at least 1, but is 0.'),
    ({'num_classes': 5.}, 'num_classes must be a whole number of at least 1, but is 5.0.'),
    ({'in_channels': 0}, 'in_channels must be a whole number of at least 1, but is 0.'),
    ({'cross_size': -1}, 'cross_size must be a whole number of at least 1, but is -1.'),
    ({'layer_nums': [2, 2, 2]}, 'layer_nums must have 4 entries, one a stage, but has 3: [2, 2, 2].'),
    ({'layer_nums': [2, 0, 2, 2]}, 'every stage needs at least one block, but layer_nums is [2, 0, 2, 2].'),
    ({'use_injection': [True]}, 'use_injection must have 2 entries, one a stage, but has 1: [True].'),
    ({'drop_path_rate': 1.}, 'drop path rate must lie in [0, 1), but is 1.0.'),
    ({'num_heads': 7}, 'in_channels (32) must be a multiple of the number of heads (7).'),
    ({'attention': 'GFA'}, "attention 'GFA' is unknown; choose one of ea, mhea, gfa."),
])
def test_wrong_arguments_are_refused(arguments, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        RTFormer(**{**NARROW, **arguments})


def test_an_unknown_argument_is_refused():
    with pytest.raises(TypeError, match='base_chanels'):
        RTFormer(5, base_chanels=8)


@pytest.mark.parametrize('size', [(31, 64), (64, 31), (16, 16)])
def test_small_images_are_refused_with_the_minimum_and_the_remedy(size):
    text = (f'RTFormer needs images of at least 32×32 pixels, but got {size[0]}×{size[1]} (height × width); '
            'pad or enlarge them.')
    with pytest.raises(ValueError, match=re.escape(text)):
        RTFormer(**NARROW)(paddle.to_tensor(images(1, size)))


# What it does beyond the reference

def test_batch_one_in_training_normalises_behind_the_global_pool():
    model = RTFormer(**NARROW)
    set_visible_weights(model)
    norm = model.spp.scale4[1]
    before = norm._mean.numpy().copy()
    seen = []
    norm.register_forward_post_hook(lambda _, inputs, output: seen.append((inputs[0].numpy(), output.numpy())))
    model.train()
    model(paddle.to_tensor(images(1, (64, 64))))
    [(given, normalised)] = seen
    assert given.shape == (1, 64, 1, 1)
    assert np.abs(given - normalised).max() > 0.1
    assert np.abs(norm._mean.numpy() - before).max() > 1e-3


@pytest.mark.parametrize(('momentum', 'kept'), [({}, 0.9), ({'bn_momentum': 0.1}, 0.1)])
def test_batch_norm_keeps_its_share_of_the_statistics(momentum, kept):
    model = RTFormer(**NARROW, **momentum)
    norms = [layer for layer in model.sublayers() if isinstance(layer, paddle.nn.BatchNorm2D)]
    assert len(norms) > 40 and {norm._momentum for norm in norms} == {kept}
    convolution, norm = model.conv1[0], model.conv1[1]
    maps = paddle.to_tensor(images(2, (64, 64)))
    model.train()
    model(maps)
    batch_mean = convolution(maps).mean(axis=[0, 2, 3]).numpy()
    np.testing.assert_allclose(norm._mean.numpy(), (1 - kept) * batch_mean, rtol=1e-3, atol=1e-6)


def test_drop_path_and_dropout_act_in_training_only():
    model = RTFormer(**{**NARROW, 'drop_path_rate': 0.5}, drop_rate=0.3, bn_momentum=1.)
    set_visible_weights(model)
    maps = paddle.to_tensor(images(2, (64, 64)))
    model.train()
    assert np.abs(model(maps)[0].numpy() - model(maps)[0].numpy()).max() > 1e-3
    model.eval()
    np.testing.assert_array_equal(model(maps)[0].numpy(), model(maps)[0].numpy())


def tensors_in(values):
    for value in values:
        if isinstance(value, paddle.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


def changed_inputs(model) -> list[str]:
    """Sublayers one of whose inputs is no longer what it was when the whole forward pass is over."""
    noted = []

    def note(name):
        return lambda _, inputs: noted.extend((name, tensor, tensor.numpy().copy()) for tensor in tensors_in(inputs))

    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in model.named_sublayers(include_self=True)]
    with paddle.no_grad():
        model(paddle.to_tensor(images(1, (64, 64))))
    for hook in hooks:
        hook.remove()
    return sorted({name for name, tensor, value in noted if not np.array_equal(tensor.numpy(), value)})


class ChangesItsInput(paddle.nn.Layer):
    def forward(self, x):
        return x.add_(paddle.ones([1]))


def test_nothing_is_changed_in_place():
    assert changed_inputs(RTFormer(**NARROW)) == []
    assert '0' in changed_inputs(paddle.nn.Sequential(ChangesItsInput())), 'the probe sees nothing'


# Registration

def test_registered_in_place_of_the_reference_with_one_log_line():
    program = """
import logging
log = logging.getLogger('paddleseg_ext')
log.setLevel(logging.INFO)
log.addHandler(logging.StreamHandler())
log.handlers[0].setFormatter(logging.Formatter('%(name)s|%(message)s'))
import paddleseg_ext.components
import paddleseg_ext.components
from paddleseg.cvlibs import manager
print(manager.MODELS['RTFormer'].__module__)
"""
    ran = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == 'paddleseg_ext.models.rtformer'
    lines = [line for line in ran.stderr.splitlines() if line.startswith('paddleseg_ext|') and 'RTFormer' in line]
    assert lines == ["paddleseg_ext|RTFormer: using paddleseg_ext's model in place of PaddleSeg's: same arguments, "
                     'parameter names and numbers, any batch and size.']


def test_the_registered_class_is_ours():
    assert components('model')['RTFormer'] is RTFormer

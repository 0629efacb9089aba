"""The layers of Visual Transformers beside NumPy, in every variant, and what holds of them by their definition."""
from __future__ import annotations

import re

import numpy as np
import paddle
import pytest
import visual_transformers_numpy as oracle
from cases import relative_difference, set_visible_weights, visible
from numpy_heads import Weights
from paddle import nn

from paddleseg_ext.engine.bare_models import bare_models
from paddleseg_ext.layers.projections import map_projection, token_projection
from paddleseg_ext.layers.projector import Projector
from paddleseg_ext.layers.token_relations import RELATIONS, TokenConvolution, TokenNorm, TokenTransformer
from paddleseg_ext.layers.tokenizers import FilterTokenizer, RecurrentTokenizer, TokenPositions
from paddleseg_ext.layers.visual_transformer import VisualTransformer, check_token_arguments

C = 12
#          tokens, token channels, groups
WIDTHS = ((2,      24,             1),
          (5,      24,             2),
          (8,      72,             3))
SIZES = ((6, 8), (7, 5), (1, 1), (1, 9))

over_widths = pytest.mark.parametrize('tokens, width, groups', WIDTHS)
over_sizes = pytest.mark.parametrize('size', SIZES, ids=lambda size: f'{size[0]}x{size[1]}')
over_positions = pytest.mark.parametrize('positions', [True, False], ids=['positions', 'no positions'])
over_relations = pytest.mark.parametrize('relation', RELATIONS)
over_recurrent = pytest.mark.parametrize('recurrent', [False, True], ids=['filter', 'recurrent'])


def random(*shape, seed=2):
    return np.random.default_rng(seed).normal(size=shape).astype('float32')


def random_map(size, *, batch=2):
    return random(batch, C, *size)


def random_tokens(count, width, *, batch=2):
    """[N, T, L], as our layers want them."""
    return random(batch, width, count, seed=3)


def in_rows(tokens):
    """[N, T, L] to [N, L, T] or back; the paper's tokens are rows."""
    return tokens.transpose(0, 2, 1).astype('float64')


@paddle.no_grad()
def run(layer, *inputs):
    outputs = layer(*(paddle.to_tensor(each) for each in inputs))
    return [each.numpy() for each in outputs] if isinstance(outputs, tuple) else outputs.numpy()


def tokenizer(kind, tokens, width, groups, positions):
    return visible(kind(C, tokens, width, groups=groups, position_encoding=positions))


# Beside NumPy

@pytest.mark.parametrize('project', [map_projection, token_projection])
@pytest.mark.parametrize('groups', [1, 2, 3])
def test_groups_are_blocks_on_the_diagonal(project, groups):
    layer = project(6, 12, groups=groups)
    x = random(2, 6, 5, *([4] if project is map_projection else []))
    expected = oracle.rows(x.astype('float64')) @ oracle.matrix(layer.weight.numpy(), groups)
    assert relative_difference(oracle.rows(run(layer, x)), expected) < 1e-6
    assert layer.bias is None


@over_widths
@over_sizes
@over_positions
def test_filter_tokenizer(tokens, width, groups, size, positions):
    layer, arrays = tokenizer(FilterTokenizer, tokens, width, groups, positions)
    x = random_map(size)
    expected = oracle.filter_tokenizer(x.astype('float64'), Weights(arrays), groups=groups)
    assert expected.shape == (2, tokens, width)
    assert relative_difference(run(layer, x), in_rows(expected)) < 1e-5


@over_widths
@over_sizes
@over_positions
def test_recurrent_tokenizer(tokens, width, groups, size, positions):
    layer, arrays = tokenizer(RecurrentTokenizer, tokens, width, groups, positions)
    x, old = random_map(size), random_tokens(tokens, width)
    expected = oracle.recurrent_tokenizer(x.astype('float64'), in_rows(old), Weights(arrays), groups=groups)
    assert expected.shape == (2, tokens, width)
    ours = run(layer, x, old)
    assert relative_difference(ours, in_rows(expected)) < 1e-5
    kept = tokens - tokens // 2
    np.testing.assert_array_equal(ours[:, :, :kept], old[:, :, tokens // 2:])


@over_relations
@over_widths
@pytest.mark.parametrize('levels', [1, 4])
def test_relations(relation, tokens, width, groups, levels):
    layer, arrays = visible(RELATIONS[relation](width, groups=groups))
    x = random_tokens(levels * tokens, width)
    expected = oracle.relation(relation, in_rows(x), Weights(arrays), groups=groups)
    assert relative_difference(run(layer, x), in_rows(expected)) < 1e-5


@pytest.mark.parametrize('width', [24, 72])
def test_norm(width):
    layer, arrays = visible(TokenNorm(width))
    x = 3. * random_tokens(5, width) + 1.
    expected = oracle.token_norm(in_rows(x), Weights(arrays))
    assert relative_difference(run(layer, x), in_rows(expected)) < 1e-5


@over_widths
@over_sizes
def test_projector(tokens, width, groups, size):
    layer, arrays = visible(Projector(C, width, groups=groups))
    x, given = random_map(size), random_tokens(tokens, width)
    expected = oracle.projector(x.astype('float64'), in_rows(given), Weights(arrays), groups=groups)
    assert relative_difference(run(layer, x, given), expected) < 1e-5


def module(*, tokens=5, width=24, groups=2, recurrent=False, relation='transformer', positions=True, **arguments):
    return visible(VisualTransformer(C, tokens=tokens, token_channels=width, groups=groups, recurrent=recurrent,
                                     relation=relation, position_encoding=positions, **arguments))


@over_recurrent
@over_relations
@over_positions
@pytest.mark.parametrize('project', [True, False], ids=['project', 'tokens only'])
def test_module(recurrent, relation, positions, project):
    layer, arrays = module(recurrent=recurrent, relation=relation, positions=positions, project=project)
    x, old = random_map((7, 5)), random_tokens(5, 24)
    maps, tokens = oracle.module(x.astype('float64'), in_rows(old), Weights(arrays), groups=2, recurrent=recurrent,
                                 relation_name=relation, project=project)
    ours = run(layer, x, old)
    assert relative_difference(ours[0], maps) < 1e-5
    assert relative_difference(ours[1], in_rows(tokens)) < 1e-5
    assert np.array_equal(ours[0], x) != project


@over_recurrent
@over_relations
@over_positions
def test_every_weight_shows_in_the_comparison(recurrent, relation, positions):
    layer, arrays = module(recurrent=recurrent, relation=relation, positions=positions)
    x, old = random_map((7, 5)), random_tokens(5, 24)
    before = run(layer, x, old)
    for name, tensor in layer.state_dict().items():
        tensor.set_value(arrays[name] * 1.5 + 0.1)
        changed = run(layer, x, old)
        assert max(map(relative_difference, changed, before)) > 1e-4, name
        tensor.set_value(arrays[name])


def test_names_and_shapes_of_the_weights():
    names = {name: tuple(value.shape) for name, value in module(recurrent=True)[0].state_dict().items()}
    assert names == {
        'tokenizer.filters.weight': (C, 24, 1),
        'tokenizer.pooling.value.weight': (22, C // 2, 1),
        'tokenizer.pooling.positions.weights.weight': (2, 49, 1),
        'relation.key.weight': (12, 12, 1), 'relation.query.weight': (12, 12, 1),
        'relation.fc1.weight': (24, 24, 1), 'relation.fc2.weight': (24, 24, 1),
        'norm.weight': (24,),
        'projector.query.weight': (C, C // 2, 1, 1),
        'projector.key.weight': (C, 24, 1), 'projector.value.weight': (C, 24, 1)}
    names = {name: tuple(value.shape) for name, value in
             module(relation='convolution', positions=False, project=False)[0].state_dict().items()}
    assert names == {'tokenizer.filters.weight': (5, C, 1, 1), 'tokenizer.pooling.value.weight': (24, C // 2, 1),
                     'relation.conv1.weight': (24, 12, 3), 'relation.conv2.weight': (24, 12, 3),
                     'norm.weight': (24,)}


# A sixteenth of the token channels, whole groups of them, and at least one a group.
@pytest.mark.parametrize('width, groups, of_positions', [(1024, 16, 64), (24, 1, 1), (24, 2, 2), (72, 3, 3), (96, 4, 4),
                                                         (160, 4, 8)])
def test_channels_of_positions(width, groups, of_positions):
    pooling = FilterTokenizer(48, 2, width, groups=groups).pooling
    assert pooling.positions.weights.weight.shape == [of_positions, 49, 1]
    assert pooling.value.weight.shape[0] == width - of_positions


def test_initial_values():
    paddle.seed(0)
    layer = VisualTransformer(256, tokens=16, token_channels=512, groups=4, recurrent=True, relation='transformer',
                              position_encoding=True)
    inputs = {'tokenizer.filters': 512, 'tokenizer.pooling.value': 64, 'tokenizer.pooling.positions.weights': 49,
              'relation.key': 128, 'relation.query': 128, 'relation.fc1': 512, 'relation.fc2': 512,
              'projector.query': 64, 'projector.key': 512, 'projector.value': 512}
    values = {name: value.numpy() for name, value in layer.state_dict().items()}
    assert (values.pop('norm.weight') == 1.).all()
    assert set(values) == {f'{name}.weight' for name in inputs}
    for name, count in inputs.items():
        assert values[f'{name}.weight'].std() == pytest.approx(count**-0.5, rel=0.05), name
    convolution = TokenConvolution(64, groups=2).conv2.weight.numpy()
    assert convolution.std() == pytest.approx((3 * 32)**-0.5, rel=0.05)


# What holds by definition

@over_sizes
def test_shares_sum_to_one(size):
    x, old = (paddle.to_tensor(each) for each in (random_map(size), random_tokens(5, 24)))
    positions = size[0] * size[1]
    layers = {kind: tokenizer(kind, 5, 24, 2, True)[0] for kind in (FilterTokenizer, RecurrentTokenizer)}
    shares = {'filter': (layers[FilterTokenizer].attention(x), [2, 5, positions], 2),
              'recurrent': (layers[RecurrentTokenizer].attention(x, old), [2, 2, positions], 2),
              'transformer': (visible(TokenTransformer(24, groups=2))[0].attention(old), [2, 5, 5], 2),
              'projector': (visible(Projector(C, 24, groups=2))[0].attention(x, old), [2, 5, positions], 1)}
    for name, (values, shape, axis) in shares.items():
        assert values.shape == shape and (values.numpy() >= 0).all(), name
        np.testing.assert_allclose(values.numpy().sum(axis=axis), 1., rtol=1e-5, err_msg=name)


ORDER = [3, 0, 4, 2, 1]


@pytest.mark.parametrize('relation, follows', [('transformer', True), ('convolution', False), ('none', True)])
def test_only_the_convolution_knows_an_order_of_tokens(relation, follows):
    layer, _ = visible(RELATIONS[relation](24, groups=2))
    x = random_tokens(5, 24)
    difference = relative_difference(run(layer, x[:, :, ORDER]), run(layer, x)[:, :, ORDER])
    assert difference < 1e-6 if follows else difference > 0.1


def test_the_projector_knows_no_order_of_tokens():
    layer, _ = visible(Projector(C, 24, groups=2))
    x, given = random_map((7, 5)), random_tokens(5, 24)
    assert relative_difference(run(layer, x, given[:, :, ORDER]), run(layer, x, given)) < 1e-6


def test_tokens_follow_the_order_of_the_filters():
    layer, arrays = tokenizer(FilterTokenizer, 5, 24, 2, True)
    before = run(layer, random_map((7, 5)))
    layer.filters.weight.set_value(arrays['filters.weight'][ORDER])
    assert relative_difference(run(layer, random_map((7, 5))), before[:, :, ORDER]) < 1e-6


def test_new_tokens_follow_the_order_of_the_first_half():
    layer, _ = tokenizer(RecurrentTokenizer, 6, 24, 2, True)
    x, old = random_map((7, 5)), random_tokens(6, 24)
    before = run(layer, x, old)
    swapped = run(layer, x, old[:, :, [2, 0, 1, 3, 4, 5]])
    assert relative_difference(swapped, before[:, :, [0, 1, 2, 5, 3, 4]]) < 1e-6


@over_recurrent
@over_positions
def test_only_positions_depend_on_the_order_of_pixels(recurrent, positions):
    layer, _ = tokenizer(RecurrentTokenizer if recurrent else FilterTokenizer, 5, 24, 2, positions)
    x, old = random_map((7, 5)), ([random_tokens(5, 24)] if recurrent else [])
    mixed = x.reshape(2, C, -1)[:, :, np.random.default_rng(0).permutation(35)].reshape(x.shape)
    before, after = run(layer, x, *old), run(layer, mixed, *old)
    of_positions = 2 if positions else 0
    assert relative_difference(after[:, :24 - of_positions], before[:, :24 - of_positions]) < 1e-6
    if positions:
        assert relative_difference(after[:, -of_positions:], before[:, -of_positions:]) > 0.1


@pytest.mark.parametrize('size', [(7, 7), (1, 1), (14, 21), (9, 4)])
def test_even_attention_gives_the_same_positions_at_every_size(size):
    layer, arrays = visible(TokenPositions(3))
    attention = np.full((1, 2, size[0] * size[1]), 1. / (size[0] * size[1]), 'float32')
    with paddle.no_grad():
        channels = layer(paddle.to_tensor(attention), size).numpy()
    expected = arrays['weights.weight'].sum(axis=(1, 2))
    np.testing.assert_allclose(channels, np.broadcast_to(expected[None, :, None], (1, 3, 2)), rtol=1e-4, atol=1e-5)


@over_recurrent
@over_relations
def test_an_image_does_not_depend_on_its_batch(recurrent, relation):
    layer, _ = module(recurrent=recurrent, relation=relation)
    x, old = random_map((7, 5), batch=3), random_tokens(5, 24, batch=3)
    for whole, alone in zip(run(layer, x, old), run(layer, x[1:2], old[1:2])):
        assert relative_difference(alone, whole[1:2]) < 1e-6


def scores_of_the_projector(module, x, tokens):
    keys, queries = module.projector.key(tokens) * module.projector.scale, module.projector.query(x).flatten(2)
    return paddle.matmul(keys, queries, transpose_x=True).numpy()


@paddle.no_grad()
def deviations(modules, x):
    """Of the scores of each projector."""
    found, tokens = [], None
    for module in modules:
        before = x
        x, tokens = module(before, tokens)
        found.append(scores_of_the_projector(module, before, tokens).std())
    return found


@pytest.mark.parametrize('seed', range(6))
def test_the_norm_keeps_scores_small_from_module_to_module(seed):
    """At the widths of VT-ResNet-50, over a map as a stage leaves it: not negative, its deviation like its mean."""
    with bare_models():
        modules = nn.LayerList([
            VisualTransformer(1024, tokens=16, token_channels=1024, groups=16, recurrent=index > 0,
                              relation='transformer', position_encoding=True) for index in range(3)])
    set_visible_weights(modules, seed=seed)
    x = paddle.to_tensor(np.random.default_rng(seed).exponential(1.3, (1, 1024, 6, 6)).astype('float32'))
    assert max(deviations(modules, x)) < 3.
    for module in modules:
        module.norm = nn.Identity()
    without = deviations(modules, x)
    assert 3. < without[0] < without[1] and 14. < without[2] < 65.


# Training

@over_recurrent
@over_relations
@over_positions
@pytest.mark.parametrize('groups', [1, 2])
def test_gradients_reach_every_parameter_and_input(recurrent, relation, positions, groups):
    layer, _ = module(recurrent=recurrent, relation=relation, positions=positions, groups=groups, drop_path_rate=0.1)
    layer.train()
    paddle.seed(0)
    inputs = [paddle.to_tensor(each, stop_gradient=False) for each in (random_map((7, 5)), random_tokens(5, 24))]
    maps, tokens = layer(*inputs)
    ((maps**2).mean() + (tokens**2).mean()).backward()
    reached = dict(layer.named_parameters())
    reached.update(zip(('map', 'tokens') if recurrent else ('map',), inputs))
    for name, value in reached.items():
        assert 1e-6 < np.abs(value.grad.numpy()).max() < np.inf, name


@pytest.mark.parametrize('kind', [TokenTransformer, TokenConvolution, Projector])
def test_drop_path_drops_branches_whole(kind):
    paddle.seed(0)
    if kind is Projector:
        layer, _ = visible(kind(C, 24, drop_path_rate=0.5))
        shortcut, inputs = random_map((3, 4), batch=64), [random_tokens(2, 24, batch=64)]
    else:
        layer, _ = visible(kind(24, drop_path_rate=0.5))
        shortcut, inputs = random_tokens(5, 24, batch=64), []
    layer.train()
    branch = np.abs(run(layer, shortcut, *inputs) - shortcut).reshape(64, -1).max(axis=1)
    # Both branches of the transformer have to be drawn.
    expected = 0.25 if kind is TokenTransformer else 0.5
    assert (branch == 0.).mean() == pytest.approx(expected, abs=0.15)


# What is refused

RIGHT = {'tokens': 8, 'token_channels': 24, 'groups': 2, 'relation': 'transformer'}


@pytest.mark.parametrize('arguments, text', [
    ({'tokens': 1}, 'tokens must be a whole number of at least 2, but is 1.'),
    ({'tokens': 2.5}, 'tokens must be a whole number of at least 2, but is 2.5.'),
    ({'token_channels': 1}, 'token_channels must be a whole number of at least 2, but is 1.'),
    ({'token_channels': '24'}, "token_channels must be a whole number of at least 2, but is '24'."),
    ({'groups': 0}, 'groups must be a whole number of at least 1, but is 0.'),
    ({'groups': None}, 'groups must be a whole number of at least 1, but is None.'),
    ({'groups': 5}, 'groups must divide the channels of the map (12) and half of token_channels (24), but is 5; choose '
                    'a common divisor of both, 1 for no groups.'),
    ({'groups': 8}, 'groups must divide the channels of the map (12) and half of token_channels (24), but is 8; choose '
                    'a common divisor of both, 1 for no groups.'),
    ({'token_channels': 25, 'groups': 1}, 'groups must divide the channels of the map (12) and half of token_channels '
                                          '(25), but is 1; choose a common divisor of both, 1 for no groups.'),
    ({'token_channels': 6}, 'groups must divide the channels of the map (12) and half of token_channels (6), but is 2; '
                            'choose a common divisor of both, 1 for no groups.'),
    ({'relation': 'attention'}, "relation must be one of transformer, convolution, none, but is 'attention'."),
])
def test_arguments_are_refused_by_rule(arguments, text):
    with pytest.raises(ValueError, match=f'^{re.escape(text)}$'):
        check_token_arguments(C, **{**RIGHT, **arguments})


@pytest.mark.parametrize('arguments', [{}, {'tokens': 2, 'token_channels': 4}, {'token_channels': 2, 'groups': 1},
                                       {'groups': 12}, {'relation': 'none'}])
def test_arguments_that_pass_build(arguments):
    given = {**RIGHT, **arguments}
    check_token_arguments(C, **given)
    for recurrent in (False, True):
        layer = VisualTransformer(C, recurrent=recurrent, position_encoding=True, **given)
        maps, tokens = run(layer, random_map((3, 4)), random_tokens(given['tokens'], given['token_channels']))
        assert maps.shape == (2, C, 3, 4) and tokens.shape == (2, given['token_channels'], given['tokens'])


def test_drop_path_rate_is_refused_by_rule():
    with pytest.raises(ValueError, match=r'drop path rate must lie in \[0, 1\), but is 1'):
        Projector(C, 24, drop_path_rate=1.)

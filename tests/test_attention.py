"""The attentions of RTFormer against NumPy oracles written from the equations, with loops and in float64."""
from __future__ import annotations

import re

import numpy as np
import paddle
import pytest

from paddleseg_ext.layers.attention import (
    EXTERNAL_ATTENTIONS,
    CellKeyValue,
    CrossResolutionAttention,
    ExternalAttention,
    grouped_double_normalisation,
)
from paddleseg_ext.layers.normalisation import softmax

HEADS = 4
EPSILON = 1e-5


def random(shape, *, seed=0, scale=1.):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype('float32')


def exponential_share(values: np.ndarray, axis: int) -> np.ndarray:
    raised = np.exp(values - values.max(axis=axis, keepdims=True))
    return raised / raised.sum(axis=axis, keepdims=True)


def normalised_memory(scores: np.ndarray, groups: int) -> np.ndarray:
    """Softmax over the L positions of each slot, then each position's share within its group of slots. [M, L]."""
    over_positions = exponential_share(scores, axis=1)
    shares = np.empty_like(over_positions)
    per_group = len(scores) // groups
    for group in range(groups):
        members = slice(group * per_group, (group + 1) * per_group)
        shares[members] = over_positions[members] / (over_positions[members].sum(axis=0) + 1e-6)
    return shares


def batch_normalised(maps: np.ndarray, norm) -> np.ndarray:
    """Batch norm in evaluation, from its formula. [N, C, H, W] in float64."""
    weight, bias, mean, variance = (tensor.numpy().astype('float64')[None, :, None, None]
                                    for tensor in (norm.weight, norm.bias, norm._mean, norm._variance))
    return (maps - mean) / np.sqrt(variance + EPSILON) * weight + bias


def memory_attention(tokens: np.ndarray, keys: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """V · normalised(K · X) for one image: tokens [C, L], keys [M, C], values [D, M]."""
    return values @ normalised_memory(keys @ tokens, groups)


def expected_external(kind: str, tokens: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The three external attentions of the paper for one image of tokens [C, L]."""
    if kind == 'ea':
        return memory_attention(tokens, keys, values, groups=1)
    if kind == 'gfa':
        return memory_attention(tokens, keys, values, groups=HEADS)
    # 'mhea': external attention with a memory of its own on every channel split.
    splits = zip(np.split(tokens, HEADS), np.split(keys, HEADS), np.split(values, HEADS))
    return np.concatenate([memory_attention(*split, groups=1) for split in splits])


def filled(layer, *, seed=0):
    """The layer in evaluation mode, with random weights and statistics."""
    generator = np.random.default_rng(seed)
    for name, tensor in layer.state_dict().items():
        values = generator.normal(size=tensor.shape)
        tensor.set_value((np.exp(values / 3) if '_variance' in name else values).astype('float32'))
    layer.eval()
    return layer


@pytest.mark.parametrize('size', [(6, 8), (7, 5), (1, 1)])
@pytest.mark.parametrize('kind', list(EXTERNAL_ATTENTIONS))
def test_external_attention_of_equal_width(kind, size):
    layer = filled(ExternalAttention(12, 12, slots=24, heads=HEADS, kind=kind))
    maps = random((2, 12, *size))
    attended = layer(paddle.to_tensor(maps)).numpy()
    assert attended.shape == maps.shape
    keys, values = (tensor.numpy().astype('float64')[:, :, 0, 0] for tensor in (layer.k, layer.v))
    for image, tokens in zip(attended, batch_normalised(maps, layer.norm).reshape(2, 12, -1)):
        np.testing.assert_allclose(image.reshape(12, -1), expected_external(kind, tokens, keys, values),
                                   rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [(6, 8), (7, 5), (1, 1)])
@pytest.mark.parametrize('kind', list(EXTERNAL_ATTENTIONS))
def test_external_attention_halves_the_map_where_the_width_changes(kind, size):
    layer = filled(ExternalAttention(8, 12, slots=24, heads=HEADS, kind=kind))
    maps = random((2, 8, *size))
    attended = layer(paddle.to_tensor(maps)).numpy()
    keys, values = (tensor.numpy().astype('float64')[:, :, 0, 0] for tensor in (layer.k, layer.v))
    every_other = batch_normalised(maps, layer.norm)[:, :, ::2, ::2]
    assert attended.shape == (2, 12, *every_other.shape[2:])
    for image, tokens in zip(attended, every_other.reshape(2, 8, -1)):
        np.testing.assert_allclose(image.reshape(12, -1), expected_external(kind, tokens, keys, values),
                                   rtol=1e-4, atol=1e-4)


def test_the_three_kinds_differ_and_coincide_with_one_head():
    maps = paddle.to_tensor(random((1, 8, 5, 6)))
    several = {kind: filled(ExternalAttention(8, 8, slots=16, heads=4, kind=kind)) for kind in EXTERNAL_ATTENTIONS}
    outputs = {kind: layer(maps).numpy() for kind, layer in several.items()}
    assert np.abs(outputs['ea'] - outputs['gfa']).max() > 1e-2
    assert several['mhea'].k.shape == [16, 2, 1, 1] and several['mhea'].v.shape == [8, 4, 1, 1]
    single = [filled(ExternalAttention(8, 8, slots=16, heads=1, kind=kind))(maps).numpy()
              for kind in EXTERNAL_ATTENTIONS]
    np.testing.assert_array_equal(single[0], single[1])
    np.testing.assert_array_equal(single[0], single[2])


@pytest.mark.parametrize('groups', [1, 2, 8])
def test_double_normalisation(groups):
    scores = random((2, 8, 5, 7), scale=0.7)
    shares = grouped_double_normalisation(paddle.to_tensor(scores), groups).numpy()
    for image, expected in zip(shares, scores.astype('float64')):
        np.testing.assert_allclose(image.reshape(8, -1), normalised_memory(expected.reshape(8, -1), groups), rtol=1e-4)
    # The shares of a group add up to one, less what the 1e-6 takes from small probabilities.
    np.testing.assert_allclose(shares.reshape(2, groups, -1, 5, 7).sum(axis=2), 1., atol=0.01)


def test_double_normalisation_has_a_finite_gradient_where_all_slots_vanish():
    scores = random((1, 8, 4, 4))
    scores[:, :, 0, 0] -= 200.  # all probabilities of this position underflow to zero
    x = paddle.to_tensor(scores, stop_gradient=False)
    shares = grouped_double_normalisation(x, 2)
    (shares**2).sum().backward()
    assert np.isfinite(shares.numpy()).all() and np.isfinite(x.grad.numpy()).all()
    assert np.abs(shares.numpy()[:, :, 0, 0]).max() < 1e-12


def expected_cross(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """One image: queries [C, L], keys and values [C, n²]; every position mixes the values of the n² cells."""
    cells = keys.shape[1]
    mixed = np.empty_like(queries)
    for position in range(queries.shape[1]):
        affinities = np.array([keys[:, cell] @ queries[:, position] for cell in range(cells)]) / np.sqrt(cells)
        mixed[:, position] = values @ exponential_share(affinities, axis=0)
    return mixed


@pytest.mark.parametrize(('size', 'cells'), [((6, 5), 3), ((3, 8), 4), ((4, 4), 1)])
def test_cross_resolution_attention(size, cells):
    layer = filled(CrossResolutionAttention(6))
    maps, key_value = random((2, 6, *size)), random((2, 12, cells, cells), seed=1)
    attended = layer(paddle.to_tensor(maps), paddle.to_tensor(key_value)).numpy()
    normalised = batch_normalised(maps, layer.norm).reshape(2, 6, -1)
    for image, queries, memory in zip(attended, normalised, key_value.astype('float64')):
        keys, values = memory[:6].reshape(6, -1), memory[6:].reshape(6, -1)
        np.testing.assert_allclose(image.reshape(6, -1), expected_cross(queries, keys, values), rtol=1e-4, atol=1e-5)


def test_keys_and_values_are_normalised_pooled_and_projected():
    layer = filled(CellKeyValue(5, 3, cells=4))
    maps = random((2, 5, 8, 12))
    pooled = batch_normalised(maps, layer[0]).reshape(2, 5, 4, 2, 4, 3).max(axis=(3, 5))
    expected = np.einsum('oc,nchw->nohw', layer[2].weight.numpy()[:, :, 0, 0].astype('float64'), pooled)
    np.testing.assert_allclose(layer(paddle.to_tensor(maps)).numpy(), expected, rtol=1e-4, atol=1e-5)


# Half precision. Paddle has no softmax in float16 or bfloat16 on the CPU, so that the calls below succeed at all shows
# that the layers compute in float32; the NumPy half shows what float16 would have done to the numbers.

@pytest.mark.parametrize('half', ['float16', 'bfloat16'])
def test_half_precision_is_computed_in_single(half):
    scores = paddle.to_tensor(random((1, 8, 64, 64))).astype(half)
    with pytest.raises(RuntimeError, match='softmax'):
        paddle.nn.functional.softmax(scores, axis=1)
    for function in (lambda x: grouped_double_normalisation(x, 2), lambda x: softmax(x, axis=1)):
        in_half = function(scores)
        assert in_half.dtype == scores.dtype
        rounded = function(scores.astype('float32')).astype(half)
        np.testing.assert_array_equal(in_half.astype('float32').numpy(), rounded.astype('float32').numpy())


def test_float16_would_lose_the_double_normalisation():
    scores = random((8, 128 * 256), scale=4.)
    in_half = exponential_share(scores.astype('float16'), axis=1)
    lost = np.mean(in_half == 0)
    assert lost > 0.1, 'the probabilities of a large map must underflow in float16 for this test to mean anything'
    maps = paddle.to_tensor(scores.reshape(1, 8, 128, 256)).astype('float16')
    shares = grouped_double_normalisation(maps, 2).astype('float32').numpy()
    expected = normalised_memory(maps.astype('float32').numpy().reshape(8, -1).astype('float64'), 2)
    np.testing.assert_allclose(shares.reshape(8, -1), expected, atol=1e-3)


@pytest.mark.parametrize('wide', ['float32', 'float64'])
def test_full_precision_stays(wide):
    scores = paddle.to_tensor(random((1, 8, 4, 4))).astype(wide)
    assert grouped_double_normalisation(scores, 2).dtype == scores.dtype
    assert softmax(scores, axis=1).dtype == scores.dtype


def test_unknown_kind_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=re.escape("attention 'mha' is unknown; choose one of ea, mhea, gfa.")):
        ExternalAttention(8, 8, slots=8, kind='mha')


@pytest.mark.parametrize(('name', 'channels'), [('in_channels', (12, 16, 16)), ('out_channels', (16, 12, 16)),
                                                ('slots', (16, 16, 12))])
def test_widths_that_heads_do_not_divide_are_refused(name, channels):
    in_channels, out_channels, slots = channels
    text = f'{name} (12) must be a multiple of the number of heads (8).'
    with pytest.raises(ValueError, match=re.escape(text)):
        ExternalAttention(in_channels, out_channels, slots=slots)

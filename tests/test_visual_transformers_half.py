"""The layers of Visual Transformers in half precision.

Paddle has no products in float16 or bfloat16 on the CPU, so they are computed in float32 here and rounded, as a GPU
does it; what lies between them is computed in half precision.
"""
from __future__ import annotations

import numpy as np
import paddle
import pytest
from cases import images, relative_difference, visible
from paddle import nn

from paddleseg_ext.layers.projector import Projector
from paddleseg_ext.layers.token_relations import TokenTransformer
from paddleseg_ext.layers.tokenizers import FilterTokenizer, RecurrentTokenizer

C = 12
MAP = images(2, (7, 5), channels=C)
TOKENS = np.random.default_rng(3).normal(size=(2, 24, 5)).astype('float32')

HALVES = pytest.mark.parametrize('half', ['float16', 'bfloat16'])


@pytest.fixture
def products_in_half(monkeypatch):
    def rounded(original):
        def product(first, second, **named):
            return original(first.astype('float32'), second.astype('float32'), **named).astype(first.dtype)
        return product

    def rounded_forward(original):
        def forward(self, x):
            return original(self, x.astype('float32')).astype(x.dtype)
        return forward

    for name in ('matmul', 'bmm'):
        monkeypatch.setattr(paddle, name, rounded(getattr(paddle, name)))
    for kind in (nn.Conv1D, nn.Conv2D):
        monkeypatch.setattr(kind, 'forward', rounded_forward(kind.forward))


def attentions(scale):
    """By name: a function from a map and tokens to the shares, whose scores are about as large as `scale`."""
    layers = {'filter': FilterTokenizer(C, 5, 24, groups=2), 'recurrent': RecurrentTokenizer(C, 5, 24, groups=2),
              'transformer': TokenTransformer(24, groups=2), 'projector': Projector(C, 24, groups=2)}
    for layer in layers.values():
        visible(layer)
    for name, weights in (('filter', 'filters'), ('recurrent', 'filters'), ('transformer', 'key'),
                          ('projector', 'query')):
        weight = getattr(layers[name], weights).weight
        weight.set_value(weight * scale)
    return {'filter': lambda x, tokens: layers['filter'].attention(x),
            'recurrent': layers['recurrent'].attention,
            'transformer': lambda x, tokens: layers['transformer'].attention(tokens),
            'projector': layers['projector'].attention}


@HALVES
def test_huge_scores_in_half_precision(half, products_in_half):
    x, old = (paddle.to_tensor(each).astype(half) for each in (MAP, TOKENS))
    with paddle.no_grad():
        for name, attention in attentions(3000.).items():
            shares = attention(x, old)
            assert shares.dtype == x.dtype
            values = shares.astype('float32').numpy()
            assert np.isfinite(values).all(), name
            np.testing.assert_allclose(values.sum(axis=1 if name == 'projector' else 2), 1., atol=0.02, err_msg=name)
            assert (values.max(axis=1 if name == 'projector' else 2) > 0.9).mean() > 0.9, name


@HALVES
def test_shares_in_half_precision_are_those_in_single(half, products_in_half):
    x, old = (paddle.to_tensor(each).astype(half) for each in (MAP, TOKENS))
    tolerance = {'float16': 1e-2, 'bfloat16': 5e-2}[half]
    with paddle.no_grad():
        for name, attention in attentions(1.).items():
            expected = attention(x.astype('float32'), old.astype('float32')).numpy()
            assert relative_difference(attention(x, old).astype('float32').numpy(), expected) < tolerance, name


def test_even_shares_of_many_pixels_in_half_precision(products_in_half):
    """Their sum of ones before the division, 81920, is more than float16 holds."""
    layer, _ = visible(FilterTokenizer(C, 2, 24, groups=2))
    layer.filters.weight.set_value(paddle.zeros([2, C, 1, 1]))
    x = paddle.to_tensor(images(1, (256, 320), channels=C)) + 1.
    assert 256 * 320 > np.finfo('float16').max
    with paddle.no_grad():
        single, half = layer(x).numpy(), layer(x.astype('float16')).astype('float32').numpy()
    assert relative_difference(half, single) < 2e-2

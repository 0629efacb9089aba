"""Adaptive max pooling against its definition in NumPy, against Paddle's own operator, and as a traced program."""
from __future__ import annotations

import re

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg_ext.layers.pooling import adaptive_max_pool2d

# (height, width), cells: divisible, not divisible, one of both, smaller than the grid, a single pixel, one cell.
MAPS = [((24, 36), 12), ((16, 32), 12), ((13, 24), 12), ((5, 7), 12), ((1, 1), 12), ((1, 40), 8), ((9, 11), 1),
        ((31, 17), 8)]


def maxima_by_definition(maps: np.ndarray, cells: int) -> np.ndarray:
    """Cell i of n over a side of length L covers ⌊i·L/n⌋ to ⌈(i+1)·L/n⌉ - 1."""
    batch, channels, height, width = maps.shape
    maxima = np.empty((batch, channels, cells, cells), maps.dtype)
    for row in range(cells):
        top, bottom = int(np.floor(row * height / cells)), int(np.ceil((row + 1) * height / cells))
        for column in range(cells):
            left, right = int(np.floor(column * width / cells)), int(np.ceil((column + 1) * width / cells))
            maxima[:, :, row, column] = maps[:, :, top:bottom, left:right].max(axis=(2, 3))
    return maxima


def random_map(size, *, seed=0, batch=2, channels=3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, channels, *size)).astype('float32')


def value_and_gradient(pool, maps: np.ndarray, cells: int):
    """What `pool` gives, and the gradient of its sum weighted by 1, 2, 3, …: every cell counts differently."""
    x = paddle.to_tensor(maps, stop_gradient=False)
    y = pool(x, cells)
    weights = paddle.arange(1, y.size + 1, dtype='float32').reshape(y.shape)
    (y * weights).sum().backward()
    return y.numpy(), x.grad.numpy()


@pytest.mark.parametrize(('size', 'cells'), MAPS)
def test_value_is_the_definitions(size, cells):
    maps = random_map(size)
    np.testing.assert_array_equal(adaptive_max_pool2d(paddle.to_tensor(maps), cells).numpy(),
                                  maxima_by_definition(maps, cells))


@pytest.mark.parametrize(('size', 'cells'), MAPS)
def test_value_and_gradient_are_those_of_paddle(size, cells):
    maps = random_map(size, seed=1)
    value, gradient = value_and_gradient(adaptive_max_pool2d, maps, cells)
    expected_value, expected_gradient = value_and_gradient(F.adaptive_max_pool2d, maps, cells)
    np.testing.assert_array_equal(value, expected_value)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6)


@pytest.mark.parametrize(('size', 'cells'), MAPS)
def test_gradient_of_ties_goes_where_paddles_goes(size, cells):
    maps = np.random.default_rng(2).integers(0, 3, (2, 2, *size)).astype('float32')
    value, gradient = value_and_gradient(adaptive_max_pool2d, maps, cells)
    expected_value, expected_gradient = value_and_gradient(F.adaptive_max_pool2d, maps, cells)
    np.testing.assert_array_equal(value, expected_value)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6)


def test_all_infinite_and_negative_maps():
    maps = np.full((1, 1, 5, 7), -np.inf, 'float32')
    assert np.isneginf(adaptive_max_pool2d(paddle.to_tensor(maps), 3).numpy()).all()


# NOTE: Paddle's own operator is not run here, because on a NaN its gradient writes out of bounds.
@pytest.mark.parametrize('size', [(16, 32), (5, 7)])
def test_nan_does_no_harm(size):
    maps = random_map(size, batch=1, channels=2)
    maps[0, 0, 2, 3] = np.nan
    maps[0, 1] = np.nan
    value, gradient = value_and_gradient(adaptive_max_pool2d, maps, 4)
    assert np.isfinite(gradient).all()
    # Every cell sends its gradient to exactly one position, whatever the NaN does to the choice.
    np.testing.assert_allclose(gradient.sum(), np.arange(1, 2 * 16 + 1).sum())
    clean = maxima_by_definition(maps, 4)
    touched = np.isnan(clean)
    np.testing.assert_array_equal(value[~touched], clean[~touched])


@pytest.mark.parametrize('cells', [0, -3])
def test_no_cells_is_refused(cells):
    text = f'adaptive max pooling needs at least one cell a side, but cells is {cells}.'
    with pytest.raises(ValueError, match=re.escape(text)):
        adaptive_max_pool2d(paddle.ones([1, 1, 4, 4]), cells)


class Pool(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        # NOTE: a parameter without effect, because Paddle warns about saving a program that has none.
        self.one = self.create_parameter([1], default_initializer=paddle.nn.initializer.Constant(1.))

    def forward(self, x):
        return adaptive_max_pool2d(x, 12) * self.one


@pytest.fixture(scope='module')
def traced_pool(tmp_path_factory):
    """The pooling as a saved program of any batch, height and width."""
    path = str(tmp_path_factory.mktemp('pool') / 'pool')
    spec = paddle.static.InputSpec([None, 3, None, None], 'float32')
    pool = Pool()
    pool.eval()
    paddle.jit.save(paddle.jit.to_static(pool, input_spec=[spec], full_graph=True), path)
    return paddle.jit.load(path)


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('size', [(24, 36), (16, 32), (5, 7), (1, 1), (33, 47)])
def test_traced_program_is_exact_at_any_size(traced_pool, batch, size):
    maps = random_map(size, batch=batch)
    np.testing.assert_array_equal(traced_pool(paddle.to_tensor(maps)).numpy(), maxima_by_definition(maps, 12))

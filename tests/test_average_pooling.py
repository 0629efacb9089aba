"""Adaptive average pooling against its definition, against Paddle's own operator, and as a traced program."""
from __future__ import annotations

import re

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from numpy_heads import average_cells

from paddleseg_ext.inference.paddle_runner import PaddleOptions, PaddleRunner
from paddleseg_ext.layers.pooling import adaptive_average_pool2d

CELLS = (1, 2, 3, 6)
# Divisible, not divisible, one of both, smaller than the grid, a single row, a single pixel.
SIZES = ((12, 18), (16, 32), (13, 24), (5, 7), (1, 40), (4, 1), (1, 1), (31, 17))


def random_map(size, *, batch=2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, 3, *size)).astype('float32')


def value_and_gradient(pool, maps: np.ndarray, cells: int):
    """What `pool` gives, and the gradient of its sum weighted by 1, 2, 3, …: every cell counts differently."""
    x = paddle.to_tensor(maps, stop_gradient=False)
    y = pool(x, cells)
    (y * paddle.arange(1, y.size + 1, dtype='float32').reshape(y.shape)).sum().backward()
    return y.numpy(), x.grad.numpy()


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('cells', CELLS)
def test_value_and_gradient_are_those_of_the_definition_and_of_paddle(size, cells):
    maps = random_map(size)
    value, gradient = value_and_gradient(adaptive_average_pool2d, maps, cells)
    expected_value, expected_gradient = value_and_gradient(F.adaptive_avg_pool2d, maps, cells)
    np.testing.assert_allclose(value, average_cells(maps.astype('float64'), cells), rtol=0., atol=1e-6)
    np.testing.assert_allclose(value, expected_value, rtol=0., atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_half_precision_does_not_overflow_and_stays(dtype):
    maps = paddle.full([1, 1, 60, 70], 6e4, 'float32').astype(dtype)
    value = adaptive_average_pool2d(maps, 2)
    assert value.dtype == maps.dtype
    np.testing.assert_allclose(value.astype('float32').numpy(), 6e4, rtol=5e-3)


@pytest.mark.parametrize('cells', [0, -3])
def test_no_cells_is_refused(cells):
    text = f'adaptive average pooling needs at least one cell a side, but cells is {cells}.'
    with pytest.raises(ValueError, match=re.escape(text)):
        adaptive_average_pool2d(paddle.ones([1, 1, 4, 4]), cells)


class Pool(paddle.nn.Layer):
    def __init__(self, cells):
        super().__init__()
        self.cells = cells
        # NOTE: a parameter without effect, because Paddle warns about saving a program that has none.
        self.one = self.create_parameter([1], default_initializer=paddle.nn.initializer.Constant(1.))

    def forward(self, x):
        return adaptive_average_pool2d(x, self.cells) * self.one


@pytest.mark.parametrize('cells', CELLS)
@pytest.mark.parametrize('onednn', [None, False], ids=['oneDNN where it works', 'plain'])
def test_exported_program_is_exact_at_any_size(cells, onednn, tmp_path):
    pool = Pool(cells)
    pool.eval()
    spec = paddle.static.InputSpec([None, 3, None, None], 'float32')
    paddle.jit.save(paddle.jit.to_static(pool, input_spec=[spec], full_graph=True), str(tmp_path / 'pool'))
    runner = PaddleRunner(tmp_path / 'pool.json', tmp_path / 'pool.pdiparams',
                          PaddleOptions(cpu_threads=1, onednn=onednn))
    for size in SIZES:
        for batch in (1, 3):
            maps = random_map(size, batch=batch)
            expected = average_cells(maps.astype('float64'), cells)
            np.testing.assert_allclose(runner.run(maps), expected, rtol=0., atol=1e-6, err_msg=str((size, batch)))
    runner.close()

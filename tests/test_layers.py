"""Drop path, batch norm behind a global pool, and sizes."""
from __future__ import annotations

import re

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_ext.layers.drop_path import DropPath
from paddleseg_ext.layers.normalisation import BatchNorm2D
from paddleseg_ext.layers.sizes import resize, spatial_size


def random(shape, *, seed=0):
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype('float32'))


# Drop path

def test_drop_path_drops_whole_samples_and_rescales_the_others():
    paddle.seed(0)
    layer = DropPath(0.25)
    x = random((4000, 3, 2, 2))
    factors = (layer(x) / x).numpy().reshape(4000, -1)
    assert (factors.max(axis=1) - factors.min(axis=1)).max() < 1e-6, 'a sample was dropped in part'
    kept = factors[:, 0] > 0
    np.testing.assert_allclose(factors[kept], 1 / 0.75, rtol=1e-5)
    # 4000 draws: the standard deviation of the share is 0.007.
    assert abs(kept.mean() - 0.75) < 0.03


def test_drop_path_keeps_the_mean():
    paddle.seed(1)
    x = paddle.ones([20000, 1])
    assert abs(float(DropPath(0.5)(x).mean()) - 1.) < 0.03


def test_drop_path_is_the_identity_in_evaluation_and_at_rate_zero():
    x = random((8, 3, 2, 2))
    layer = DropPath(0.9)
    layer.eval()
    assert layer(x) is x
    assert DropPath(0.)(x) is x


def test_drop_path_gives_no_gradient_to_dropped_samples():
    paddle.seed(2)
    x = random((64, 2))
    x.stop_gradient = False
    y = DropPath(0.5)(x)
    y.sum().backward()
    dropped = (y.numpy() == 0).all(axis=1)
    assert 10 < dropped.sum() < 54
    np.testing.assert_array_equal(x.grad.numpy(), np.where(dropped[:, None], 0., 2.) * np.ones((64, 2)))


@pytest.mark.parametrize('rate', [-0.1, 1., 1.5])
def test_drop_path_refuses_other_rates(rate):
    with pytest.raises(ValueError, match=re.escape(f'drop path rate must lie in [0, 1), but is {rate}.')):
        DropPath(rate)


def test_drop_path_shows_its_rate():
    assert 'rate=0.25' in repr(DropPath(0.25))


# Batch norm

def norm_with_statistics(channels=4, **arguments):
    layer = BatchNorm2D(channels, **arguments)
    layer._mean.set_value(np.linspace(-1., 1., channels, dtype='float32'))
    layer._variance.set_value(np.linspace(0.5, 2., channels, dtype='float32'))
    layer.weight.set_value(np.linspace(0.8, 1.2, channels, dtype='float32'))
    layer.bias.set_value(np.linspace(-0.3, 0.3, channels, dtype='float32'))
    return layer


def plain_norm_like(layer, channels=4, **arguments):
    plain = nn.BatchNorm2D(channels, **arguments)
    plain.set_state_dict(layer.state_dict())
    return plain


def test_paddles_batch_norm_skips_a_single_value():
    """What ours is there for: when this fails, Paddle has mended it."""
    x = random((1, 4, 1, 1))
    plain = plain_norm_like(norm_with_statistics())
    np.testing.assert_array_equal(plain(x).numpy(), x.numpy())


def test_single_value_is_normalised_by_the_updated_statistics():
    layer = norm_with_statistics(momentum=0.9)
    mean, variance = layer._mean.numpy(), layer._variance.numpy()
    x = random((1, 4, 1, 1))
    value = x.numpy().reshape(4)
    y = layer(x).numpy().reshape(4)
    # An exponentially weighted mean and variance that keep 0.9: the textbook recursion.
    new_mean = 0.9 * mean + 0.1 * value
    new_variance = 0.9 * variance + 0.9 * 0.1 * (value - mean)**2
    np.testing.assert_allclose(layer._mean.numpy(), new_mean, rtol=1e-5)
    np.testing.assert_allclose(layer._variance.numpy(), new_variance, rtol=1e-5)
    expected = (value - new_mean) / np.sqrt(new_variance + 1e-5) * layer.weight.numpy() + layer.bias.numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-6)


def test_single_values_teach_the_statistics_of_their_distribution():
    """Many steps at batch 1 end at the mean and variance of the values, so evaluation is right."""
    layer = BatchNorm2D(1, momentum=0.99)
    values = np.random.default_rng(0).normal(3., 2., 800).astype('float32')
    for value in values:
        layer(paddle.full([1, 1, 1, 1], float(value)))
    assert abs(layer._mean.numpy()[0] - 3.) < 0.5
    assert abs(layer._variance.numpy()[0] - 4.) < 1.5


def test_single_value_gives_gradients():
    layer = norm_with_statistics()
    x = random((1, 4, 1, 1))
    x.stop_gradient = False
    (layer(x)**2).sum().backward()
    for tensor in (x, layer.weight, layer.bias):
        assert np.isfinite(tensor.grad.numpy()).all() and np.abs(tensor.grad.numpy()).max() > 0


@pytest.mark.parametrize('shape', [(2, 4, 1, 1), (1, 4, 1, 2), (3, 4, 5, 6)])
def test_everything_else_in_training_is_paddles(shape):
    layer = norm_with_statistics(momentum=0.8, epsilon=1e-6)
    plain = plain_norm_like(layer, momentum=0.8, epsilon=1e-6)
    x = random(shape)
    np.testing.assert_array_equal(layer(x).numpy(), plain(x).numpy())
    for ours, theirs in ((layer._mean, plain._mean), (layer._variance, plain._variance)):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize('shape', [(1, 4, 1, 1), (2, 4, 3, 3)])
def test_evaluation_is_paddles_and_updates_nothing(shape):
    layer = norm_with_statistics()
    plain = plain_norm_like(layer)
    layer.eval()
    plain.eval()
    before = layer._mean.numpy(), layer._variance.numpy()
    x = random(shape)
    np.testing.assert_array_equal(layer(x).numpy(), plain(x).numpy())
    np.testing.assert_array_equal(layer._mean.numpy(), before[0])
    np.testing.assert_array_equal(layer._variance.numpy(), before[1])


def test_frozen_statistics_stay_frozen_at_a_single_value():
    layer = norm_with_statistics(use_global_stats=True)
    before = layer._mean.numpy()
    x = random((1, 4, 1, 1))
    layer.eval()
    expected = layer(x).numpy()
    layer.train()
    np.testing.assert_array_equal(layer(x).numpy(), expected)
    np.testing.assert_array_equal(layer._mean.numpy(), before)


def test_converts_to_synchronised_batch_norm_with_its_values():
    model = nn.Sequential(nn.Conv2D(3, 4, 1), norm_with_statistics())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted[1], nn.SyncBatchNorm)
    for name, tensor in norm_with_statistics().state_dict().items():
        np.testing.assert_array_equal(converted[1].state_dict()[name].numpy(), tensor.numpy(), err_msg=name)


# Sizes

def test_spatial_size_is_whole_numbers_in_dygraph():
    assert [*spatial_size(paddle.ones([2, 3, 5, 7]))] == [5, 7]
    assert all(type(side) is int for side in spatial_size(paddle.ones([2, 3, 5, 7])))


def test_resize_uses_half_pixel_centres():
    row = paddle.to_tensor(np.array([0., 4.], 'float32').reshape(1, 1, 1, 2))
    np.testing.assert_allclose(resize(row, [1, 4]).numpy().ravel(), [0., 1., 3., 4.])

"""Multiply-accumulates of a model, counted at the operators that do them.

`paddle.flops` looks at layers, so it misses whatever a forward computes itself (external attention convolves with
parameters) and leaves buffers behind in the model. Here the operators of Paddle are watched during one forward: what
runs is counted, whoever calls it, and nothing else. Convolutions, matrix products and linear maps count; normalisation,
activation, pooling and interpolation do not, as is the custom of papers.
"""
from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import paddle

__all__ = ['count_macs', 'count_parameters']


def count_parameters(model: paddle.nn.Layer) -> int:
    """Trainable parameters: no running statistics and nothing frozen."""
    return sum(math.prod(parameter.shape) for parameter in model.parameters() if not parameter.stop_gradient)


def count_macs(model: paddle.nn.Layer, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward in evaluation.

    The big convolutions are counted but not computed (their outputs have the right shape and a wrong content), so
    counting is quick at any size. It must not run beside other work of this process with Paddle.

    Args:
        model: any layer over one image tensor; left as it was, its mode included.
        input_shape: [N, C, H, W].
    """
    counter = _Counter()
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        with paddle.no_grad(), counter.watching():
            model(paddle.zeros(list(input_shape)))
    finally:
        for layer, training in modes:
            layer.training = training
    return counter.macs


class _Counter:
    """Stands in for Paddle's operators while it watches; `macs` is the sum so far."""

    def __init__(self):
        self.macs = 0
        self.depth = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        replaced = []
        try:
            for owner, name, rule in _watched():
                original = getattr(owner, name, None)
                if original is not None:
                    setattr(owner, name, self._counted(original, rule))
                    replaced.append((owner, name, original))
            yield
        finally:
            for owner, name, original in reversed(replaced):
                setattr(owner, name, original)

    def _counted(self, original: Callable, rule: Callable) -> Callable:
        def call(*args, **kwargs):
            # NOTE: a watched function may call another (older Paddle's matmul its operator): only the outer one counts.
            if self.depth:
                return original(*args, **kwargs)
            self.depth += 1
            try:
                output, macs = rule(original, *args, **kwargs)
            finally:
                self.depth -= 1
            self.macs += macs
            return output
        return call


def _watched() -> list[tuple[object, str, Callable]]:
    """(owner, name, rule) of every function that multiplies and accumulates, in Paddle 2.6 to 3.3."""
    operators = paddle._C_ops
    rules = [(operators, 'conv2d', _convolution), (operators, 'linear', _linear)]
    rules += [(operators, name, _small_convolution) for name in ('depthwise_conv2d', 'conv3d')]
    rules += [(operators, name, _transposed_convolution) for name in ('conv2d_transpose', 'depthwise_conv2d_transpose')]
    # NOTE: newer Paddle binds these where users find them, so replacing the operator alone would miss their calls.
    for owner in (operators, paddle, paddle.tensor, paddle.tensor.linalg, paddle.Tensor):
        rules += [(owner, name, _matrix_product) for name in ('matmul', 'bmm', 'mm')]
    return [*rules, (paddle.Tensor, '__matmul__', _matrix_product)]


def _convolution(original: Callable, x, weight, strides, paddings, algorithm, dilations, groups, data_format, *rest):
    # One input and one output channel give the output's size for next to nothing.
    channels_last = data_format == 'NHWC'
    thin = x[..., :1] if channels_last else x[:, :1]
    shape = list(original(thin, weight[:1, :1], strides, paddings, algorithm, dilations, 1, data_format, *rest).shape)
    shape[-1 if channels_last else 1] = weight.shape[0]
    return paddle.zeros(shape, dtype=x.dtype), math.prod(shape) * math.prod(weight.shape[1:])


def _small_convolution(original: Callable, x, weight, *args, **kwargs):
    output = original(x, weight, *args, **kwargs)
    return output, math.prod(output.shape) * math.prod(weight.shape[1:])


def _transposed_convolution(original: Callable, x, weight, *args, **kwargs):
    return original(x, weight, *args, **kwargs), math.prod(x.shape) * math.prod(weight.shape[1:])


def _linear(original: Callable, x, weight, *args, **kwargs):
    return original(x, weight, *args, **kwargs), math.prod(x.shape) * weight.shape[-1]


def _matrix_product(original: Callable, x, y, *args, **kwargs):
    output = original(x, y, *args, **kwargs)
    transposed = kwargs.get('transpose_x', args[0] if args else False)
    inner = x.shape[-2] if transposed and len(x.shape) > 1 else x.shape[-1]
    return output, math.prod(output.shape) * inner

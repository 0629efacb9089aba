"""Multiply-accumulates of a model, counted at the operators that do them.

`paddle.flops` looks at layers, so it misses whatever a forward computes itself (external attention convolves with
parameters) and leaves buffers behind in the model. Here the operators of Paddle are watched during one forward: what
runs is counted, whoever calls it, and nothing else. Convolutions, matrix products and linear maps count; normalisation,
activation, pooling and interpolation do not, as is the custom of papers.
"""
from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator

import paddle

__all__ = ['count_macs', 'count_parameters']

# Multiply-accumulates, or elements, from which nothing is computed.
BIG = 10**6


def count_parameters(model: paddle.nn.Layer) -> int:
    """Trainable parameters: no running statistics and nothing frozen."""
    return sum(math.prod(parameter.shape) for parameter in model.parameters() if not parameter.stop_gradient)


def count_macs(model: paddle.nn.Layer, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward in evaluation.

    What is big is counted but not computed: outputs have the right shape and a wrong content, so counting is quick at
    any size, and a model whose shapes depend on contents would be counted wrong. It must not run beside other work of
    this process with Paddle.

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
            _blank.buffer = None

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


class _Blank:
    """Makes tensors of any content that share their memory: what big operators give in place of results."""

    def __init__(self):
        self.buffer = None

    def __call__(self, shape: list[int], like: paddle.Tensor) -> paddle.Tensor:
        size = math.prod(shape)
        if like.dtype != paddle.float32 or size < BIG:
            return paddle.zeros(shape, dtype=like.dtype)
        if self.buffer is None or self.buffer.shape[0] < size:
            self.buffer = paddle.empty([size])
        return self.buffer[:size].reshape(shape)


_blank = _Blank()


def _watched() -> list[tuple[object, str, Callable]]:
    """(owner, name, rule) of every function that multiplies and accumulates, in Paddle 2.6 to 3.3."""
    operators = paddle._C_ops
    rules = [(operators, 'conv2d', _convolution), (operators, 'linear', _linear)]
    rules += [(operators, 'depthwise_conv2d', _depthwise), (operators, 'conv3d', _small_convolution)]
    rules += [(operators, 'conv2d_transpose', _transposed_convolution),
              (operators, 'depthwise_conv2d_transpose', _small_transposed_convolution)]
    # NOTE: newer Paddle binds these where users find them, so replacing the operator alone would miss their calls.
    for owner in (operators, paddle, paddle.tensor, paddle.tensor.linalg, paddle.Tensor):
        rules += [(owner, name, _matrix_product) for name in ('matmul', 'bmm', 'mm')]
    rules += [(operators, name, _left_out) for name in ('softmax', 'gelu', 'relu')]
    rules += [(owner, 'transpose', _transposition) for owner in (operators, paddle, paddle.Tensor)]
    rules += [(paddle.Tensor, name, _elementwise) for name in ('__add__', '__mul__')]
    rules += [(operators, name, _interpolation) for name in ('bilinear_interp', 'bicubic_interp', 'nearest_interp')]
    return [*rules, (paddle.Tensor, '__matmul__', _matrix_product)]


def _convolution(original: Callable, x, weight, strides, paddings, algorithm, dilations, groups, data_format, *rest):
    # One input and one output channel give the output's size for next to nothing.
    channels_last = data_format == 'NHWC'
    thin = x[..., :1] if channels_last else x[:, :1]
    shape = list(original(thin, weight[:1, :1], strides, paddings, algorithm, dilations, 1, data_format, *rest).shape)
    shape[-1 if channels_last else 1] = weight.shape[0]
    return _blank(shape, x), math.prod(shape) * math.prod(weight.shape[1:])


def _depthwise(original: Callable, x, weight, strides, paddings, algorithm, groups, dilations, data_format, *rest):
    # As above; only the order of the arguments differs.
    def as_convolution(x, weight, strides, paddings, algorithm, dilations, groups, data_format, *rest):
        return original(x, weight, strides, paddings, algorithm, groups, dilations, data_format, *rest)

    return _convolution(as_convolution, x, weight, strides, paddings, algorithm, dilations, groups, data_format, *rest)


def _small_convolution(original: Callable, x, weight, *args, **kwargs):
    output = original(x, weight, *args, **kwargs)
    return output, math.prod(output.shape) * math.prod(weight.shape[1:])


def _transposed_convolution(original: Callable, x, weight, *args):
    groups, _, data_format = args[-3:]
    if groups != 1 or data_format != 'NCHW':
        return _small_transposed_convolution(original, x, weight, *args)
    shape = list(original(x[:, :1], weight[:1, :1], *args).shape)
    shape[1] = weight.shape[1]
    return _blank(shape, x), math.prod(x.shape) * math.prod(weight.shape[1:])


def _small_transposed_convolution(original: Callable, x, weight, *args, **kwargs):
    return original(x, weight, *args, **kwargs), math.prod(x.shape) * math.prod(weight.shape[1:])


def _linear(original: Callable, x, weight, *args, **kwargs):
    macs = math.prod(x.shape) * weight.shape[-1]
    if macs < BIG:
        return original(x, weight, *args, **kwargs), macs
    return _blank([*x.shape[:-1], weight.shape[-1]], x), macs


def _matrix_product(original: Callable, x, y, *args, **kwargs):
    transposed = [kwargs.get(name, args[index] if index < len(args) else False)
                  for index, name in enumerate(('transpose_x', 'transpose_y'))]
    if min(len(x.shape), len(y.shape)) > 1:
        (*batch_x, rows, inner), (*batch_y, _, columns) = (_transposed(list(operand.shape), swap)
                                                           for operand, swap in zip((x, y), transposed))
        shape = [*_broadcast(batch_x, batch_y), rows, columns]
        macs = math.prod(shape) * inner
        if macs >= BIG:
            return _blank(shape, x), macs
    output = original(x, y, *args, **kwargs)
    inner = x.shape[-2] if transposed[0] and len(x.shape) > 1 else x.shape[-1]
    return output, math.prod(output.shape) * inner


def _transposed(shape: list[int], swap: bool) -> list[int]:
    return [*shape[:-2], shape[-1], shape[-2]] if swap else shape


def _broadcast(one: list[int], other: list[int]) -> list[int]:
    """The common shape of the leading axes of two operands that fit."""
    pairs = itertools.zip_longest(reversed(one), reversed(other), fillvalue=1)
    return [max(pair) if 0 not in pair else 0 for pair in pairs][::-1]


def _left_out(original: Callable, x, *args, **kwargs):
    # Of the shape of its input, and slow where it is big.
    return x, 0


def _elementwise(original: Callable, x, y):
    if math.prod(x.shape) < BIG or not x.is_floating_point() or (
            isinstance(y, paddle.Tensor) and (y.dtype != x.dtype or _broadcast(x.shape, y.shape) != x.shape)):
        return original(x, y), 0
    return x, 0


def _transposition(original: Callable, x, perm, *args, **kwargs):
    if math.prod(x.shape) < BIG or len(perm) != len(x.shape):
        return original(x, perm, *args, **kwargs), 0
    return _blank([x.shape[axis] for axis in perm], x), 0


def _interpolation(original: Callable, x, *args, **kwargs):
    # One channel gives the output's size for next to nothing.
    if any(isinstance(value, str) and value.endswith('C') for value in (*args, *kwargs.values())):
        return original(x, *args, **kwargs), 0
    shape = list(original(x[:, :1], *args, **kwargs).shape)
    return _blank([shape[0], x.shape[1], *shape[2:]], x), 0

"""Batch normalisation that also holds for one value per channel, and softmax that is safe in half precision."""
from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

__all__ = ['BatchNorm2D', 'softmax', 'to_full_precision']


class BatchNorm2D(nn.BatchNorm2D):
    """`paddle.nn.BatchNorm2D` that does not switch itself off when a channel holds a single value.

    Behind a global pool, batch 1 leaves one value per channel. There is no batch variance then, and Paddle returns
    its input as it came, silently. This layer then folds the value into the running statistics and normalises with
    them, which is what evaluation will do. In every other case it is Paddle's layer, and it converts to
    SyncBatchNorm like it.

    Shapes: [N, C, H, W] to [N, C, H, W].
    """

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        single = self.training and paddle.in_dynamic_mode() and x.shape[0] * x.shape[2] * x.shape[3] == 1
        if not single or self._use_global_stats:
            # NOTE: the class is named because the tracer of Paddle 2.6 does not understand super() here.
            return nn.BatchNorm2D.forward(self, x)
        self._fold_in(x.detach().astype(self._mean.dtype).reshape([-1]))
        return F.batch_norm(x, self._mean, self._variance, self.weight, self.bias, training=False,
                            epsilon=self._epsilon, data_format=self._data_format)

    @paddle.no_grad()
    def _fold_in(self, value: paddle.Tensor) -> None:
        weight = 1. - self._momentum
        deviation = value - self._mean
        paddle.assign(self._mean + weight * deviation, self._mean)
        paddle.assign(self._momentum * (self._variance + weight * deviation * deviation), self._variance)


def to_full_precision(x: paddle.Tensor) -> paddle.Tensor:
    """`x` in float32 if it is float16 or bfloat16, else `x` itself."""
    return x.astype('float32') if x.dtype in (paddle.float16, paddle.bfloat16) else x


def softmax(x: paddle.Tensor, axis: int) -> paddle.Tensor:
    """Softmax computed in float32 or better and returned in the type of `x`.

    Over more than 65,504 positions the sum would pass the largest float16 number, and long before that it would lose
    most digits of small shares.
    """
    return F.softmax(to_full_precision(x), axis=axis).astype(x.dtype)

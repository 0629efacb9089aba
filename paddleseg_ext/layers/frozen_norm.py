"""Batch normalisation whose statistics stay as they are, for batches too small to estimate any."""
from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

__all__ = ['FrozenBatchNorm2D']


class FrozenBatchNorm2D(nn.Layer):
    """Batch norm by its running statistics in training as in evaluation; scale and shift are still learned.

    Names and shapes of the weights are those of `BatchNorm2D`, so either loads what the other saved. An image's result
    does not depend on the others of its batch.

    Args:
        channels: C.
        epsilon: added to the variance.

    Shapes: [N, C, H, W] to [N, C, H, W].
    """

    # NOTE: no subclass of Paddle's batch norm, because SyncBatchNorm.convert_sync_batchnorm would replace it by one
    # that takes the statistics of the batch.

    def __init__(self, channels: int, *, epsilon: float = 1e-5):
        super().__init__()
        self.epsilon = epsilon
        self.weight = self.create_parameter([channels], default_initializer=nn.initializer.Constant(1.))
        self.bias = self.create_parameter([channels], is_bias=True)
        self.register_buffer('_mean', paddle.zeros([channels]))
        self.register_buffer('_variance', paddle.ones([channels]))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.batch_norm(x, self._mean, self._variance, self.weight, self.bias, training=False,
                            epsilon=self.epsilon)

    def extra_repr(self) -> str:
        return f'{self.weight.shape[0]}, epsilon={self.epsilon}'

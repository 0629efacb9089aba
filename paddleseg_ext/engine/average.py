"""An exponential moving average of a model's weights and statistics."""
from __future__ import annotations

import copy

import paddle
from paddle import nn

__all__ = ['MovingAverage']


class MovingAverage:
    """Keeps `model`, a copy of the trained one whose weights are averaged over the steps.

    Args:
        model: the trained model.
        decay: share of the average that a step keeps, in [0, 1). It grows to this value as (1 + n) / (10 + n) over
            the first steps n, so the average soon forgets the initial weights.

    Raises:
        ValueError: `decay` is outside [0, 1).
    """

    def __init__(self, model: nn.Layer, *, decay: float = 0.999):
        if not 0. <= decay < 1.:
            raise ValueError(f'the decay of a moving average must lie in [0, 1), but is {decay}.')
        self.decay = decay
        self.model = copy.deepcopy(model)
        self.model.eval()
        for parameter in self.model.parameters():
            parameter.stop_gradient = True

    @paddle.no_grad()
    def update(self, model: nn.Layer, step: int) -> None:
        """Fold in the weights after `step` steps (1 for the first). No value is read back from the device."""
        decay = min(self.decay, (1. + step) / (10. + step))
        current = model.state_dict()
        for name, mean in self.model.state_dict().items():
            if paddle.is_floating_point(mean):
                # NOTE: in place, because it takes a third of the time of computing and assigning a new tensor.
                mean.scale_(decay)
                mean.add_(current[name].astype(mean.dtype) * (1. - decay))
            else:
                paddle.assign(current[name], mean)

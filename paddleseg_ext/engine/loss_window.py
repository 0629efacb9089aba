"""The losses since the last log line, summed on the device."""
from __future__ import annotations

import paddle

from paddleseg_ext.errors import UserError

__all__ = ['LossWindow', 'require_finite_weights']

REMEDY = ('Nothing after the last checkpoint was saved. Lower the learning rate, lengthen the warm-up, clip gradients '
          '(optimizer.grad_clip_cfg) or check the data with `paddleseg data check`.')
# Steps in a row that a loss scaler may skip while it looks for a scale that fits.
SKIPPED_STEPS = 20


class LossWindow:
    """Sums the losses since the last reading, and stops the training when they are not finite.

    On the CPU every loss is looked at as it comes, before its gradient is computed; on a GPU, where that would stall
    the stream, at every reading and before every save.

    Args:
        scaled: the losses are scaled for fp16, and the scaler skips single steps that are not finite.
    """

    def __init__(self, *, scaled: bool):
        self.scaled = scaled
        self.at_once = paddle.get_device() == 'cpu'
        self.bad, self.last = 0, 0
        self._empty()

    def _empty(self) -> None:
        self.total, self.steps = None, 0

    def add(self, loss: paddle.Tensor, terms: list[paddle.Tensor], iteration: int) -> None:
        """Add the scalar `loss` of an iteration and the terms it is the sum of; UserError as `check`."""
        values = paddle.stack([part.detach().astype('float32') for part in (loss, *terms)])
        bad = 1 - paddle.isfinite(values[0]).astype('int32')
        self.bad = (self.bad + bad) * bad if self.scaled else self.bad + bad
        self.total = values if self.total is None else self.total + values
        self.steps, self.last = self.steps + 1, iteration
        if self.at_once:
            self.check()

    def check(self) -> None:
        """Raises UserError where a loss was not finite; with a scaler, where none of the last 20 was."""
        if int(self.bad) > (SKIPPED_STEPS if self.scaled else 0):
            raise UserError(f'the loss is not finite (NaN or infinite) at iteration {self.last}. {REMEDY}')

    def read(self) -> list[float]:
        """Mean losses since the last reading: the sum, then each term. UserError as `check`."""
        self.check()
        means = (self.total / self.steps).tolist()
        self._empty()
        return means


def require_finite_weights(model: paddle.nn.Layer, iteration: int) -> None:
    """Raises UserError where a weight is NaN or infinite: the step that spoils the weights may have a finite loss."""
    for name, weight in model.state_dict().items():
        if paddle.is_floating_point(weight) and not bool(paddle.isfinite(weight).all()):
            raise UserError(f'the weights are not finite (NaN or infinite) after iteration {iteration}, {name} among '
                            f'them. {REMEDY}')

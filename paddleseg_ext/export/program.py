"""Trace a segmentation model into a program file, and the shape of what that program takes."""
from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import paddle
from paddle.nn import functional

from paddleseg_ext.errors import UserError

__all__ = ['INPUT_NAME', 'ExportedSegmentor', 'full_input_shape', 'save_program', 'shape_advice']

INPUT_NAME = 'x'


class ExportedSegmentor(paddle.nn.Layer):
    """What is traced: images in, one output out.

    Only the first output of the model is asked for, so the tracer drops auxiliary heads together with their weights.

    Args:
        model: a segmentor: `[N, C, H, W]` (or channels last, when `model.data_format` is NHWC) → list of logits.
        output_op: `argmax` (int32 `[N, H, W]`), `softmax` (float32 `[N, classes, H, W]`) or `none` (logits).
    """

    def __init__(self, model: paddle.nn.Layer, output_op: str):
        super().__init__()
        self.model = model
        self.output_op = output_op
        self.channels_last = getattr(model, 'data_format', 'NCHW') == 'NHWC'

    def forward(self, x):
        if self.channels_last:
            x = x.transpose([0, 2, 3, 1])
        logits = self.model(x)[0]
        if self.channels_last:
            logits = logits.transpose([0, 3, 1, 2])
        if self.output_op == 'argmax':
            return paddle.argmax(logits, axis=1, dtype='int32')
        if self.output_op == 'softmax':
            return functional.softmax(logits, axis=1)
        return logits


def full_input_shape(input_shape: Sequence | None, in_channels: int) -> list:
    """The four sides `[N, C, H, W]` as whole numbers, -1 where any value goes.

    Args:
        input_shape: four sides, None or -1 for any; None for any batch and size.
        in_channels: channels where `input_shape` leaves them open.

    Raises:
        UserError: not four sides, or a side that cannot be.
    """
    if input_shape is None:
        return [-1, in_channels, -1, -1]
    sides = [-1 if side is None else int(side) for side in input_shape]
    if len(sides) != 4:
        raise UserError(f'--input_shape {" ".join(map(str, input_shape))}: four numbers are needed, batch, channels, '
                        'height and width, -1 where any value goes: for example 1 3 512 1024.')
    if any(side == 0 or side < -1 for side in sides):
        raise UserError(f'--input_shape {" ".join(map(str, sides))}: a side is -1 (any) or at least 1.')
    if sides[1] == -1:
        sides[1] = in_channels
    return sides


def save_program(model: paddle.nn.Layer, prefix: Path, *, output_op: str, input_shape: Sequence[int]) -> Path:
    """Trace `model` and save it at `prefix` (`prefix.json` or `prefix.pdmodel`, `prefix.pdiparams`).

    Args:
        model: the segmentor; it is copied, and neither its mode nor its parameters are touched.
        prefix: path without suffix; the folder exists.
        output_op: see ExportedSegmentor.
        input_shape: `[N, C, H, W]`, -1 where any value goes.

    Returns:
        the program's file, as Paddle really named it.

    Raises:
        UserError: the model cannot be traced with this shape.
    """
    # NOTE: a copy, because tracing replaces the forward methods of every layer it walks through.
    traced = ExportedSegmentor(copy.deepcopy(model), output_op)
    traced.eval()
    spec = paddle.static.InputSpec(shape=[None if side < 0 else side for side in input_shape], dtype='float32',
                                   name=INPUT_NAME)
    try:
        program = paddle.jit.to_static(traced, input_spec=[spec], full_graph=True)
        paddle.jit.save(program, str(prefix))
    except Exception as problem:  # whatever the model's own forward raises while it is traced
        raise UserError(f'{type(model).__name__} cannot be exported for the input shape {list(input_shape)}: '
                        f'{_reason(problem)}{shape_advice(input_shape)}') from problem
    written = [prefix.with_suffix(suffix) for suffix in ('.json', '.pdmodel')]
    return next(path for path in written if path.is_file())


def shape_advice(input_shape: Sequence[int]) -> str:
    """The remedy when a model does not survive a symbolic batch, height or width; empty when all sides are fixed."""
    if all(side > 0 for side in input_shape):
        return ''
    return (' It seems to need sizes that are known beforehand: pass --input_shape with the batch and size to run, for '
            f'example --input_shape 1 {input_shape[1]} 512 1024.')


def _reason(problem: BaseException) -> str:
    """The last line of an error that says something, without Paddle's pages of source positions."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    telling = [line for line in lines if 'Error' in line and not line.startswith(('File', '#'))]
    line = (telling or lines or [''])[-1]
    return f'{type(problem).__name__}: {line}'[:400].rstrip('. ') + '.'

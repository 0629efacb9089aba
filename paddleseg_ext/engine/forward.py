"""The one place that turns images into logits and class ids: whole image, sliding window, multi-scale and flips.

The numbers are PaddleSeg 2.8.0's (``paddleseg/core/infer.py``); the memory is not:

==================  ==================================================================================================
whole image         what the model needs, plus its logits once
sliding window      what one window (``window_batch`` of them) needs on the device, plus float32 sums on the host for
                    one row of windows: C · crop height · W. :func:`predict_rows` hands rows on as they become final, so
                    the full logits never exist, unless they must be resized afterwards or are augmented
multi-scale, flips  the sum of the logits at the input size and one addend
restored logits     above ``STRIPE_ELEMENTS`` elements they are made, and turned into ids, in stripes of rows
==================  ==================================================================================================

Letters: N batch, C classes, H × W size of the image as the model sees it. Sizes of windows are (width, height), as in
PaddleSeg's YAML; shapes are NCHW.
"""
from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from paddleseg_ext.engine.options import TestOptions
from paddleseg_ext.errors import UserError

__all__ = ['TestOptions', 'predict_labels', 'predict_logits', 'predict_rows', 'restore']

Model = Callable[[paddle.Tensor], Sequence]

STRIPE_ELEMENTS = 1 << 25
"""Restored logits of more elements than this (128 MiB of float32) are made in stripes of rows."""


def predict_logits(model: Model, images: Any, options: TestOptions | None = None) -> paddle.Tensor:
    """The main logits of a batch of images, at the size of the images.

    Args:
        model: a layer, or any callable, that maps ``[N, channels, H, W]`` to a list whose first item is the logits
            ``[N, C, H, W]``. A layer with ``data_format == 'NHWC'`` gets and gives channels last.
        images: float32 ``[N, channels, H, W]``, tensor or array, as the transforms of the data set made them.
        options: how to test; plain whole-image inference when absent.

    Returns:
        float32 logits ``[N, C, H, W]``; with several scales or flips their mean.

    Raises:
        UserError: a precision the device has not.
        TypeError: the model returned something else than a list.
    """
    options = options or TestOptions()
    images = _as_tensor(images)
    return _augmented_logits(model, images, options) if options.aug_eval else _plain_logits(model, images, options)


def predict_rows(model: Model, images: Any, trans_info: Sequence,
                 options: TestOptions | None = None) -> Iterator[paddle.Tensor]:
    """The logits of a batch of images that were all transformed alike, at the size the images had on disk, in stripes.

    Args:
        model, images, options: as in :func:`predict_logits`.
        trans_info: what the transforms noted about sizes (``[('resize', (h, w)), …]``), in order.

    Yields:
        float32 ``[N, C, rows, width]``, from the top of the images to the bottom; all at once when that is small.

    Raises:
        UserError, TypeError: as :func:`predict_logits` and :func:`restore`.
    """
    options = options or TestOptions()
    images = _as_tensor(images)
    steps = [_step(item) for item in trans_info]
    if not options.is_slide or options.aug_eval or any(kind == 'resize' for kind, _ in steps):
        yield from _restored_rows(predict_logits(model, images, options), steps)
        return
    height, width = steps[0][1] if steps else images.shape[-2:]
    for top, rows in _slide_rows(model, images, options):
        if top < height:  # rows below are padding
            yield paddle.to_tensor(np.ascontiguousarray(rows[:, :, :height - top, :width]))


def predict_labels(model: Model, images: Any, trans_info: Sequence, options: TestOptions | None = None) -> np.ndarray:
    """Class ids of a batch of images that were all transformed alike, at the size the images had on disk.

    Args:
        model, images, trans_info, options: as in :func:`predict_rows`.

    Returns:
        int32 ``[N, height, width]``.

    Raises:
        UserError, TypeError: as :func:`predict_logits` and :func:`restore`.
    """
    rows = predict_rows(model, images, trans_info, options)
    return np.concatenate([paddle.argmax(logits, axis=1, dtype='int32').numpy() for logits in rows], axis=1)


def restore(logits: paddle.Tensor, trans_info: Sequence, *, mode: str = 'bilinear') -> paddle.Tensor:
    """Undo the sizes of the transforms: logits of the transformed images → logits of the images on disk.

    Args:
        logits: ``[N, C, H, W]``; all N images were transformed alike.
        trans_info: the notes of the transforms, undone from the last to the first.
        mode: interpolation of resized images.

    Returns:
        ``[N, C, height, width]``.

    Raises:
        UserError: a note that is neither 'resize' nor 'padding'.
    """
    for kind, (height, width) in [_step(item) for item in trans_info][::-1]:
        if kind == 'padding':
            logits = logits[:, :, :height, :width]
        else:
            logits = _resize(logits, height, width, mode)
    return logits


def _restored_rows(logits: paddle.Tensor, steps: list) -> Iterator[paddle.Tensor]:
    """:func:`restore` in stripes of rows: the last thing to undo is never done to all rows of a huge result at once.

    In stripes the two axes are interpolated one after the other, so logits may differ from the whole in the last bit.
    """
    logits = restore(logits, steps[1:])
    kind, (height, width) = steps[0] if steps else ('padding', logits.shape[-2:])
    batch, classes = logits.shape[:2]
    stripe = height
    if batch * classes * height * width > STRIPE_ELEMENTS:
        stripe = max(1, STRIPE_ELEMENTS // (4 * batch * classes * max(width, logits.shape[3])))
    for top in range(0, height, stripe):
        bottom = min(top + stripe, height)
        if kind == 'padding':
            yield logits[:, :, top:bottom, :width]
        elif stripe == height:
            yield _resize(logits, height, width, 'bilinear')
        else:
            yield _resize_rows(logits, (height, width), top, bottom)


def _resize_rows(logits: paddle.Tensor, size: tuple[int, int], top: int, bottom: int) -> paddle.Tensor:
    """Rows ``top … bottom`` of the logits resized bilinearly to `size`: ``[N, C, bottom - top, width]``."""
    source_height = logits.shape[2]
    # NOTE: float32 throughout, because Paddle's kernel computes its positions so; float64 would differ in the weights.
    ratio = np.float32(source_height / size[0])
    position = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5)) * ratio - np.float32(0.5)
    position = np.clip(position, 0, source_height - 1)
    above = np.floor(position).astype(np.int64)
    below = np.minimum(above + 1, source_height - 1)
    weight = paddle.to_tensor((position - above).astype(np.float32).reshape(1, 1, -1, 1))
    upper = paddle.index_select(logits, paddle.to_tensor(above), axis=2)
    lower = paddle.index_select(logits, paddle.to_tensor(below), axis=2)
    return _resize(upper * (1.0 - weight) + lower * weight, bottom - top, size[1], 'bilinear')


def _plain_logits(model: Model, images: paddle.Tensor, options: TestOptions) -> paddle.Tensor:
    if not options.is_slide:
        return _run(model, images, options.precision)
    logits = None
    for top, rows in _slide_rows(model, images, options):
        if logits is None:
            logits = np.empty((*rows.shape[:2], *images.shape[-2:]), dtype=np.float32)
        logits[:, :, top:top + rows.shape[2]] = rows
    return paddle.to_tensor(logits)


def _augmented_logits(model: Model, images: paddle.Tensor, options: TestOptions) -> paddle.Tensor:
    height, width = images.shape[-2:]
    flips = _flip_axes(options)
    total = None
    for scale in options.scales:
        scaled = _resize(images, _scaled(height, scale), _scaled(width, scale), 'bilinear')
        for axes in flips:
            logits = _plain_logits(model, paddle.flip(scaled, axes) if axes else scaled, options)
            logits = _resize(paddle.flip(logits, axes) if axes else logits, height, width, 'bilinear')
            total = logits if total is None else total + logits
    return total / (len(options.scales) * len(flips))


def _scaled(length: int, scale: float) -> int:
    scaled = int(length * scale + 0.5)
    if scaled < 1:
        raise UserError(f'scale {scale} leaves nothing of an image side of {length} pixels; use a larger scale.')
    return scaled


def _flip_axes(options: TestOptions) -> list[list[int]]:
    """Axes to flip in each pass: none, then horizontally, vertically, both, as far as asked for."""
    flips = [[]]
    if options.flip_horizontal:
        flips.append([3])
    if options.flip_vertical:
        flips += [[2], [3, 2]] if options.flip_horizontal else [[2]]
    return flips


class _Windows(NamedTuple):
    """Where the windows of one image lie: their size and the starts of rows and columns."""

    height: int
    width: int
    tops: list[int]
    lefts: list[int]


def _windows(height: int, width: int, options: TestOptions) -> _Windows:
    """Windows in steps of the stride; the last row and column are moved back to end at the border."""
    def starts(length: int, crop: int, stride: int) -> list[int]:
        count = 1 if length <= crop else math.ceil((length - crop) / stride) + 1
        return [max(min(index * stride + crop, length) - crop, 0) for index in range(count)]

    crop_width, crop_height = options.crop_size
    stride_width, stride_height = options.stride
    return _Windows(min(crop_height, height), min(crop_width, width),
                    starts(height, crop_height, stride_height), starts(width, crop_width, stride_width))


def _slide_rows(model: Model, images: paddle.Tensor, options: TestOptions) -> Iterator[tuple[int, np.ndarray]]:
    """Yield ``(top, logits [N, C, rows, W] float32)``: averaged rows, as soon as no further window touches them."""
    windows = _windows(*images.shape[-2:], options)
    total = counts = None  # [N, C, window height, W] and [window height, W]: sums over the image's rows from `start` on
    start = 0
    for top in windows.tops:
        if total is not None:
            yield start, _mean(total[:, :, :top - start], counts[:top - start])
            _scroll(total, top - start, axis=2)
            _scroll(counts, top - start, axis=0)
            start = top
        for left, logits in _window_logits(model, images, windows, top, options):
            if total is None:
                total = np.zeros((*logits.shape[:2], windows.height, images.shape[-1]), dtype=np.float32)
                counts = np.zeros(total.shape[2:], dtype=np.float32)
            total[:, :, :, left:left + windows.width] += logits
            counts[:, left:left + windows.width] += 1
    yield start, _mean(total, counts)


def _mean(total: np.ndarray, counts: np.ndarray) -> np.ndarray:
    assert counts.all(), 'a stride above the crop size was let through'
    return total / counts


def _scroll(array: np.ndarray, rows: int, *, axis: int) -> None:
    """Move the content up by `rows` in place and clear what follows, one slice at a time (no second copy)."""
    view = np.moveaxis(array, axis, 0)
    kept = max(view.shape[0] - rows, 0)
    for row in range(kept):
        view[row] = view[row + rows]
    view[kept:] = 0


def _window_logits(model: Model, images: paddle.Tensor, windows: _Windows, top: int,
                   options: TestOptions) -> Iterator[tuple[int, np.ndarray]]:
    """Yield ``(left, logits [N, C, window height, window width])`` of one row of windows."""
    number = images.shape[0]
    strip = images[:, :, top:top + windows.height]
    for first in range(0, len(windows.lefts), options.window_batch):
        lefts = windows.lefts[first:first + options.window_batch]
        crops = [strip[:, :, :, left:left + windows.width] for left in lefts]
        logits = _run(model, crops[0] if len(crops) == 1 else paddle.concat(crops, axis=0), options.precision).numpy()
        logits = logits[:, :, :windows.height, :windows.width]
        for index, left in enumerate(lefts):
            yield left, logits[index * number:(index + 1) * number]


def _run(model: Model, images: paddle.Tensor, precision: str) -> paddle.Tensor:
    """One pass through the model: NCHW in, the main logits as NCHW float32 out."""
    channels_last = getattr(model, 'data_format', 'NCHW') == 'NHWC'
    with paddle.no_grad(), _autocast(precision):
        outputs = model(images.transpose([0, 2, 3, 1]) if channels_last else images)
    if not isinstance(outputs, Sequence):
        raise TypeError(f'the model returned {type(outputs).__name__}; a segmentation model returns a list of logits, '
                        'the main ones first.')
    logits = _as_tensor(outputs[0])
    if channels_last:
        logits = logits.transpose([0, 3, 1, 2])
    return logits if logits.dtype == paddle.float32 else logits.astype('float32')


def _resize(images: paddle.Tensor, height: int, width: int, mode: str) -> paddle.Tensor:
    if list(images.shape[-2:]) == [height, width]:
        return images  # bilinear and nearest to the same size are the identity, bit by bit
    return F.interpolate(images, [height, width], mode=mode)


def _step(item: Any) -> tuple[str, tuple[int, int]]:
    """One note of the transforms as (kind, (height, width)), also of the forms PaddleSeg's data loader makes of it."""
    kind = item[0][0] if isinstance(item[0], (list, tuple)) else item[0]
    if kind not in ('resize', 'padding'):
        raise UserError(f'the transforms noted {kind!r} in trans_info; only resize and padding can be undone. Remove '
                        'that transform from the validation transforms.')
    return kind, (int(item[1][0]), int(item[1][1]))


def _as_tensor(value: Any) -> paddle.Tensor:
    return value if isinstance(value, paddle.Tensor) else paddle.to_tensor(value)


@contextlib.contextmanager
def _autocast(precision: str) -> Iterator[None]:
    """Mixed precision around the forward pass, with PaddleSeg's operator lists."""
    if precision == 'fp32':
        yield
        return
    if paddle.get_device().startswith('cpu'):
        raise UserError(f'precision {precision} needs a GPU: Paddle ignores mixed precision on the CPU. Use fp32.')
    dtype = {'fp16': 'float16', 'bf16': 'bfloat16'}[precision]
    with paddle.amp.auto_cast(level='O1', dtype=dtype, custom_black_list={'bilinear_interp_v2', 'bilinear_interp'},
                              custom_white_list={'elementwise_add', 'batch_norm', 'sync_batch_norm'}):
        yield

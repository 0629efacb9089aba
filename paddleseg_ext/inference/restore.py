"""From the program's output back to the original image's pixels.

`trans_info` is what PaddleSeg's transforms note down: entries `('resize', (height, width))` and `('padding', (height,
width))`, the size *before* that step, in the order in which the steps ran.
"""
from __future__ import annotations

import numpy as np

__all__ = ['has_resize', 'restore_labels', 'restore_scores']


def has_resize(trans_info: list) -> bool:
    """Whether a transform changed the scale, so that going back needs interpolation."""
    return any(_kind(entry) == 'resize' for entry in trans_info)


def restore_labels(labels: np.ndarray, trans_info: list) -> np.ndarray:
    """Labels `[N, H, W]` at the network's size → at the original size; padding is cut, scales by nearest neighbour."""
    for entry in reversed(trans_info):
        height, width = entry[1][0], entry[1][1]
        if _kind(entry) == 'padding':
            labels = labels[:, :height, :width]
        else:
            labels = labels[:, _nearest(labels.shape[1], height)][:, :, _nearest(labels.shape[2], width)]
    return labels


def restore_scores(scores: np.ndarray, trans_info: list, *, are_probabilities: bool = False) -> np.ndarray:
    """Scores `[N, classes, H, W]` at the network's size → labels int32 `[N, H, W]` at the original size.

    Scales are undone bilinearly on the scores, the largest then wins: what evaluation and `predict` do. Probabilities
    are taken back to logits first (up to a term that all classes of a pixel share, which interpolation keeps shared),
    so softmax and raw logits give the same labels.
    """
    import paddle
    from paddle.nn import functional

    if not has_resize(trans_info):
        return restore_labels(scores.argmax(axis=1).astype(np.int32), trans_info)
    if are_probabilities:
        scores = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
    # NOTE: paddle's interpolate and not OpenCV's, because equal masks need equal rounding.
    tensor = paddle.to_tensor(scores, place=paddle.CPUPlace())
    for entry in reversed(trans_info):
        height, width = int(entry[1][0]), int(entry[1][1])
        if _kind(entry) == 'padding':
            tensor = tensor[:, :, :height, :width]
        else:
            tensor = functional.interpolate(tensor, [height, width], mode='bilinear')
    return paddle.argmax(tensor, axis=1, dtype='int32').numpy()


def _kind(entry) -> str:
    kind = entry[0][0] if isinstance(entry[0], list) else entry[0]
    if kind not in ('resize', 'padding'):
        raise ValueError(f'trans_info holds {kind!r}: only resize and padding can be undone.')
    return kind


def _nearest(source: int, target: int) -> np.ndarray:
    """For each of `target` cells the index of the source cell that holds its left edge, as Paddle's nearest mode."""
    return np.minimum(np.arange(target) * source // target, source - 1)

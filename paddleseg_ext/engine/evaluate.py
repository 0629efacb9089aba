"""Evaluate a model, or anything that maps images to logits, on a PaddleSeg validation set."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle

from paddleseg_ext.engine.forward import Model, TestOptions, predict_rows
from paddleseg_ext.engine.progress import progress_bar
from paddleseg_ext.engine.samples import Sample, grouped, read_samples, sample_name
from paddleseg_ext.errors import UserError
from paddleseg_ext.metrics import ConfusionMatrix, ScoreHistogram

__all__ = ['evaluate', 'evaluation_mode']


def evaluate(model: Model, dataset: Any, options: TestOptions | None = None, *, batch_size: int = 1,
             num_workers: int = 0, progress: bool = True, scores: ScoreHistogram | None = None) -> ConfusionMatrix:
    """Count the confusion matrix of a model over a data set.

    The model is put into evaluation mode and back into what it was in before. Under ``paddle.distributed`` every rank
    reads its share of the images and all ranks return the sums over all images, each counted once.

    Args:
        model: a layer or any callable ``images [N, channels, H, W] → [logits [N, C, H, W], …]``.
        dataset: a PaddleSeg data set in 'val' mode with `num_classes` and `ignore_index`.
        options: how to test; plain whole-image inference when absent.
        batch_size: images put through the model at once, where neighbours in the list have equal sizes.
        num_workers: processes that read images ahead; 0 reads in this process.
        progress: show a bar on stderr (first rank only).
        scores: also filled with the probabilities of the classes, for the area under the ROC curve (slower).

    Returns:
        the counts; `.miou`, `.class_iou` … are PaddleSeg's figures of the same name.

    Raises:
        UserError: an empty set; and with the file's name: files that cannot be read, sizes that the model refuses,
            label ids outside the classes.
        ValueError: a `batch_size` below 1 or `num_workers` below 0.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f'batch_size is {batch_size} and num_workers {num_workers}; they must be at least 1 and 0.')
    if len(dataset) == 0:
        raise UserError('the validation set has no images; check val_dataset in the config, its list and its folder.')
    options = options or TestOptions()
    rank, ranks = _rank()
    indices = range(rank, len(dataset), ranks)
    matrix = ConfusionMatrix(dataset.num_classes, ignore_index=dataset.ignore_index)
    samples = read_samples(dataset, indices, num_workers=num_workers, chunk_size=batch_size)
    bar = progress_bar(len(indices), 'evaluate', enabled=progress and rank == 0)
    with evaluation_mode(model), paddle.no_grad(), bar:
        for batch in grouped(samples, batch_size):
            _count(model, batch, options, dataset, matrix, scores)
            bar.set_postfix(mIoU=f'{matrix.miou:.4f}', refresh=False)
            bar.update(len(batch))
    if ranks > 1:
        _sum_over_ranks(matrix, scores)
    return matrix


@contextlib.contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Put every part of a layer into evaluation mode, and afterwards each back into the mode it was in.

    Anything that is not a layer is left alone.
    """
    layers = model.sublayers(include_self=True) if isinstance(model, paddle.nn.Layer) else []
    before = [(layer, layer.training) for layer in layers]
    if layers:
        model.eval()
    try:
        yield
    finally:
        for layer, training in before:
            layer.training = training


def _count(model: Model, batch: list[Sample], options: TestOptions, dataset: Any, matrix: ConfusionMatrix,
           scores: ScoreHistogram | None) -> None:
    """Predict one batch of equal sizes and add its images to the figures one by one, so that errors name the image."""
    names = [sample_name(dataset, sample.index) for sample in batch]
    try:
        predictions = _predict(model, batch, options, scores)
    except ValueError as error:  # sizes that the model or Paddle refuses
        raise UserError(f'{", ".join(names)} (as the model sees it: {list(batch[0].image.shape)}): {error}') from error
    for name, sample, prediction in zip(names, batch, predictions):
        if prediction.shape != sample.label.shape:
            raise UserError(f'{name}: the prediction is {list(prediction.shape)} and the label '
                            f'{list(sample.label.shape)} pixels (height, width); image and label must be of one size.')
        try:
            matrix.update(prediction, sample.label)
        except UserError as error:
            raise UserError(f'{name}: {error}') from error


def _predict(model: Model, batch: list[Sample], options: TestOptions, scores: ScoreHistogram | None) -> np.ndarray:
    """Class ids int32 ``[N, height, width]``; counts the probabilities on the way."""
    images = np.stack([sample.image for sample in batch])
    labels = np.stack([sample.label for sample in batch])
    predictions, top = [], 0
    for logits in predict_rows(model, images, batch[0].trans_info, options):
        predictions.append(paddle.argmax(logits, axis=1, dtype='int32').numpy())
        rows = labels[:, top:top + logits.shape[2]]
        if scores is not None and list(rows.shape[1:]) == logits.shape[2:]:  # else refused by the caller, by name
            scores.update(paddle.nn.functional.softmax(logits, axis=1).numpy(), rows)
        top += logits.shape[2]
    return np.concatenate(predictions, axis=1)


def _rank() -> tuple[int, int]:
    """This process's rank and the number of ranks; starts the communication where that was not done yet."""
    ranks = paddle.distributed.get_world_size()
    if ranks > 1 and not paddle.distributed.is_initialized():
        paddle.distributed.init_parallel_env()
    return paddle.distributed.get_rank(), ranks


def _sum_over_ranks(matrix: ConfusionMatrix, scores: ScoreHistogram | None) -> None:
    sums = [matrix.counts, matrix.ignored_pixels] + ([scores.counts] if scores is not None else [])
    totals = []
    for value in sums:
        tensor = paddle.to_tensor(np.asarray(value, dtype=np.int64).reshape(-1))
        paddle.distributed.all_reduce(tensor)
        totals.append(tensor.numpy().reshape(np.shape(value)))
    matrix.counts, matrix.ignored_pixels = totals[0], int(totals[1])
    if scores is not None:
        scores.counts = totals[2]

"""Which samples a training step sees, and with which random augmentation: a function of seed, epoch and sample alone.

The order does not depend on workers, and the augmentation not on ranks, so a training that resumes at iteration k
sees exactly what an uninterrupted one sees.
"""
from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import paddle

from paddleseg_ext.engine.samples import unreadable_reason
from paddleseg_ext.engine.workers import read_ahead
from paddleseg_ext.errors import UserError

__all__ = ['SeededDataset', 'ShuffledBatches', 'batches', 'collate']

# What PaddleSeg's items carry besides arrays, of no use to a training step.
BOOKKEEPING = ('trans_info', 'gt_fields')
MISTAKE = 'mistake'


class ShuffledBatches:
    """Batches of (sample, epoch) pairs for one rank, from iteration `start` to `stop`; whole epochs, remainder dropped.

    Args:
        samples: size of the data set.
        batch_size: samples a step on one rank.
        start, stop: first iteration (from 0), and the one after the last.
        seed: of the shuffling.
        rank, ranks: this process, and how many there are.

    Raises:
        UserError: the data set is empty or smaller than one batch over all ranks.
    """

    def __init__(self, samples: int, *, batch_size: int, start: int, stop: int, seed: int, rank: int = 0,
                 ranks: int = 1):
        self.per_epoch = samples // (batch_size * ranks)
        if self.per_epoch == 0:
            remedy = f'lower batch_size to at most {samples // ranks}, or' if samples >= ranks else 'please'
            raise UserError(f'the training set has {samples} samples, fewer than one batch of {batch_size} on '
                            f'{ranks} device{"s" * (ranks > 1)}; {remedy} add images.')
        self.samples, self.batch_size, self.start, self.stop = samples, batch_size, start, stop
        self.seed, self.rank, self.ranks = seed, rank, ranks

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, order_epoch = None, -1
        for iteration in range(self.start, self.stop):
            epoch, step = divmod(iteration, self.per_epoch)
            if epoch != order_epoch:
                order, order_epoch = np.random.default_rng((self.seed, epoch)).permutation(self.samples), epoch
            first = (step * self.ranks + self.rank) * self.batch_size
            yield [(int(index), epoch) for index in order[first:first + self.batch_size]]


class SeededDataset(paddle.io.Dataset):
    """A data set indexed by (sample, epoch) that seeds the augmentation of each item on its own.

    Raises:
        UserError: an item cannot be read or transformed, or its label has ids that are neither a class nor ignored,
            which Paddle's losses would read out of bounds; the text names the files.
    """

    def __init__(self, dataset: paddle.io.Dataset, seed: int):
        super().__init__()
        self.dataset, self.seed = dataset, seed
        self.classes = getattr(dataset, 'num_classes', None)
        self.ignored = getattr(dataset, 'ignore_index', None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        index, epoch = key
        words = np.random.SeedSequence((self.seed, epoch, index)).generate_state(2)
        random.seed(int(words[0]))
        np.random.seed(words[1])
        try:
            item = self.dataset[index]
        except UserError as error:
            raise UserError(f'training sample {index}: {error}') from error
        except Exception as error:  # whatever a decoder or a transform raises, the file's name is what helps
            reason = unreadable_reason(self.dataset, index) or (
                f'{self._files(index)} cannot be prepared for training, {type(error).__name__}: {error}; check the '
                'training transforms, and the files with `paddleseg data check`.')
            raise UserError(f'training sample {index}: {reason}') from error
        self._check_label(item.get('label'), index)
        return {name: value for name, value in item.items() if name not in BOOKKEEPING}

    def _files(self, index: int) -> str:
        files = getattr(self.dataset, 'file_list', None)
        return ' and '.join(str(file) for file in files[index]) if files else type(self.dataset).__name__

    def _check_label(self, label, index: int) -> None:
        if self.classes is None or not isinstance(label, np.ndarray) or label.dtype.kind not in 'iu':
            return
        outside = (label >= self.classes) if label.dtype.kind == 'u' else (label >= self.classes) | (label < 0)
        outside &= label != self.ignored
        if outside.any():
            ids = ', '.join(map(str, np.unique(label[outside])[:8].tolist()))
            raise UserError(f'training sample {index}: {self._files(index)}: label ids that are no class: {ids}; ids '
                            f'go from 0 to {self.classes - 1}, and {self.ignored} is ignored. Correct num_classes, '
                            'ignore_index, the padding value of labels in the transforms, or the label; '
                            '`paddleseg data check` lists every such file.')


def collate(items: list[dict]) -> dict[str, np.ndarray]:
    """Stack items into a batch.

    Raises:
        UserError: their images, or their labels, differ in size.
    """
    shapes = {item['img'].shape for item in items}
    if len(shapes) > 1:
        raise UserError(f'the images of one batch differ in shape (channels, height, width): {sorted(shapes)}; add '
                        'RandomPaddingCrop or Resize to the training transforms, or set batch_size to 1.')
    for name, first in items[0].items():
        shapes = {np.shape(item[name]) for item in items} if isinstance(first, np.ndarray) else ()
        if len(shapes) > 1:
            raise UserError(f'the arrays called {name!r} in one batch differ in shape: {sorted(shapes)}, although '
                            'their images do not; run `paddleseg data check` to see which do not fit their image.')
    return paddle.io.dataloader.collate.default_collate_fn(items)


def batches(dataset: SeededDataset, order: ShuffledBatches, *, num_workers: int) -> Iterator[dict]:
    """Batches of tensors in the given order, read by `num_workers` processes or, with 0, by this one.

    A generator; closing it ends the processes.

    Raises:
        UserError: as SeededDataset and `collate`.
    """
    if num_workers == 0:
        # NOTE: Paddle's loader without workers is a thread that waits for ever when an item raises; a loop does not.
        for keys in order:
            yield _to_tensors(collate([dataset[key] for key in keys]))
        return
    stream = read_ahead(_Excused(dataset), num_workers=num_workers, batch_sampler=order, collate_fn=_collate_excused)
    with contextlib.closing(stream):
        for batch in stream:
            if MISTAKE in batch:
                raise UserError(batch[MISTAKE])
            yield batch


def _to_tensors(value):
    if isinstance(value, dict):
        return {name: _to_tensors(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_tensors(entry) for entry in value]
    return paddle.to_tensor(value) if isinstance(value, np.ndarray) else value


class _Excused(paddle.io.Dataset):
    """The data set as workers see it: a UserError becomes an item, because Paddle would wrap it in its traceback."""

    def __init__(self, dataset: SeededDataset):
        super().__init__()
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        try:
            return self.dataset[key]
        except UserError as error:
            return {MISTAKE: str(error)}


def _collate_excused(items: list[dict]) -> dict:
    mistake = next((item[MISTAKE] for item in items if MISTAKE in item), None)
    if mistake is None:
        try:
            return collate(items)
        except UserError as error:
            mistake = str(error)
    # NOTE: with an array beside the text, because Paddle passes only batches on that have one.
    return {MISTAKE: mistake, 'img': np.zeros(1, 'float32')}

"""Which samples a training step sees, and with which random augmentation: a function of seed, epoch and sample alone.

The order does not depend on workers, and the augmentation not on ranks, so a training that resumes at iteration k
sees exactly what an uninterrupted one sees.
"""
from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import paddle

from paddleseg_ext.errors import UserError

__all__ = ['SeededDataset', 'ShuffledBatches', 'batches', 'collate']

# What PaddleSeg's items carry besides arrays, of no use to a training step.
BOOKKEEPING = ('trans_info', 'gt_fields')


class ShuffledBatches:
    """Batches of (sample, epoch) pairs for one rank, from iteration `start` to `stop`; whole epochs, remainder dropped.

    Args:
        samples: size of the data set.
        batch_size: samples a step on one rank.
        start, stop: first iteration (from 0), and the one after the last.
        seed: of the shuffling.
        rank, ranks: this process, and how many there are.

    Raises:
        UserError: the data set is smaller than one batch over all ranks.
    """

    def __init__(self, samples: int, *, batch_size: int, start: int, stop: int, seed: int, rank: int = 0,
                 ranks: int = 1):
        self.per_epoch = samples // (batch_size * ranks)
        if self.per_epoch == 0:
            raise UserError(f'the training set has {samples} samples, fewer than one batch of {batch_size} on '
                            f'{ranks} device(s); lower batch_size to at most {samples // ranks} or add images.')
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
        UserError: an item cannot be read or transformed; the text names its file.
    """

    def __init__(self, dataset: paddle.io.Dataset, seed: int):
        super().__init__()
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        index, epoch = key
        words = np.random.SeedSequence((self.seed, epoch, index)).generate_state(2)
        random.seed(int(words[0]))
        np.random.seed(words[1])
        try:
            item = self.dataset[index]
        except Exception as error:  # whatever a transform or a decoder raises, the file's name is what helps
            raise UserError(f'training sample {index} ({self._name(index)}) cannot be read: '
                            f'{type(error).__name__}: {error}; `paddleseg data check` lists every such file.') from error
        return {name: value for name, value in item.items() if name not in BOOKKEEPING}

    def _name(self, index: int) -> str:
        files = getattr(self.dataset, 'file_list', None)
        return ', '.join(str(file) for file in files[index]) if files else type(self.dataset).__name__


def collate(items: list[dict]) -> dict[str, np.ndarray]:
    """Stack items into a batch.

    Raises:
        UserError: their images differ in size.
    """
    shapes = {item['img'].shape for item in items}
    if len(shapes) > 1:
        raise UserError(f'the images of one batch differ in shape (channels, height, width): {sorted(shapes)}; add '
                        'RandomPaddingCrop or Resize to the training transforms, or set batch_size to 1.')
    return paddle.io.dataloader.collate.default_collate_fn(items)


def batches(dataset: SeededDataset, order: ShuffledBatches, *, num_workers: int) -> Iterator[dict]:
    """Batches of tensors in the given order, read by `num_workers` processes or, with 0, by this one."""
    if num_workers > 0:
        return iter(paddle.io.DataLoader(dataset, batch_sampler=order, collate_fn=collate, num_workers=num_workers,
                                         return_list=True))
    # NOTE: Paddle's loader without workers is a thread that waits for ever when an item raises; a plain loop does not.
    return (_to_tensors(collate([dataset[key] for key in keys])) for keys in order)


def _to_tensors(value):
    if isinstance(value, dict):
        return {name: _to_tensors(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_tensors(entry) for entry in value]
    return paddle.to_tensor(value) if isinstance(value, np.ndarray) else value

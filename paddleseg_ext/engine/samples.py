"""Samples of a validation set, in order: read by this process or by workers, and grouped into batches.

# NOTE: with 0 workers Paddle's DataLoader is not used, because it hangs for ever when a sample raises. With workers,
errors travel as text inside the sample, because Paddle would wrap them in its own traceback.
"""
from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import paddle
from PIL import Image

from paddleseg_ext.engine.workers import read_ahead
from paddleseg_ext.errors import UserError

__all__ = ['Sample', 'grouped', 'read_samples', 'sample_name', 'unreadable_reason']


@dataclass(frozen=True)
class Sample:
    """One transformed image and its label.

    Attributes:
        index: place in the data set.
        image: float32 ``[channels, H, W]``.
        label: class ids ``[height, width]`` of the image on disk, or None.
        trans_info: ``(('resize' | 'padding', (height, width)), …)``.
    """

    index: int
    image: np.ndarray
    label: np.ndarray
    trans_info: tuple

    @property
    def group(self) -> tuple:
        """Samples that agree in this can share a batch."""
        return self.image.shape, self.label.shape, self.trans_info


def sample_name(dataset: Any, index: int) -> str:
    """The image's path as the data set's `file_list` has it, else 'sample N'."""
    files = getattr(dataset, 'file_list', None)
    if not files:
        return f'sample {index}'
    entry = files[index]
    return str(entry[0] if isinstance(entry, (list, tuple)) else entry)


def read_samples(dataset: Any, indices: Sequence[int], *, num_workers: int = 0,
                 chunk_size: int = 1) -> Iterator[Sample]:
    """Yield the samples `indices` of a PaddleSeg data set, in that order.

    Args:
        dataset: items are ``{'img': [channels, H, W], 'label': [1, H, W] or [H, W], 'trans_info': [...]}``.
        indices: which.
        num_workers: processes that read ahead; 0 reads in this process.
        chunk_size: samples a worker hands over at once.

    Raises:
        UserError: an image or label file that cannot be read, or a label that is not a map of ids; names the file.
        RuntimeError: any other failure of the data set in a worker, with the worker's traceback.
    """
    if num_workers == 0:
        for index in indices:
            yield _read(dataset, index)
        return
    stream = read_ahead(_Reader(dataset, indices), num_workers=num_workers, batch_size=chunk_size, shuffle=False,
                        drop_last=False, collate_fn=list, places=[paddle.CPUPlace()])
    with contextlib.closing(stream):
        for chunk in stream:
            for packed in chunk:
                yield _unpack(packed)


def grouped(samples: Iterator[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """Batches of consecutive samples of one :attr:`Sample.group`, of at most `batch_size`; others come alone."""
    batch: list[Sample] = []
    for sample in samples:
        if batch and (len(batch) == batch_size or sample.group != batch[0].group):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


class _Reader(paddle.io.Dataset):
    """The data set as its workers see it: samples as plain dicts, failures as text."""

    def __init__(self, dataset: Any, indices: Sequence[int]):
        super().__init__()
        self.dataset = dataset
        self.indices = list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        index = self.indices[position]
        try:
            sample = _read(self.dataset, index)
        except UserError as error:
            return {'image': np.zeros(1, dtype=np.float32), 'mistake': str(error)}
        except Exception:  # reported by _unpack, in the parent process
            return {'image': np.zeros(1, dtype=np.float32), 'failure': traceback.format_exc()}
        return {'index': index, 'image': sample.image, 'label': sample.label,
                'trans_info': [[kind, list(size)] for kind, size in sample.trans_info]}


def _unpack(packed: dict[str, Any]) -> Sample:
    if 'mistake' in packed:
        raise UserError(packed['mistake'])
    if 'failure' in packed:
        raise RuntimeError(f'a data worker failed:\n{packed["failure"]}')
    trans_info = tuple((kind, tuple(size)) for kind, size in packed['trans_info'])
    return Sample(int(packed['index']), packed['image'].numpy(), packed['label'].numpy(), trans_info)


def _read(dataset: Any, index: int) -> Sample:
    try:
        item = dataset[index]
    except Exception as error:
        reason = unreadable_reason(dataset, index)
        if reason is None:
            raise
        raise UserError(reason) from error
    image = np.ascontiguousarray(item['img'], dtype=np.float32)
    label = np.asarray(item['label'])
    label = label[0] if label.ndim == 3 and label.shape[0] == 1 else label
    if label.ndim != 2:
        raise UserError(f'{_label_name(dataset, index)}: the label has shape {list(label.shape)}; it must be one '
                        'channel of class ids. Convert colour labels to ids first.')
    if not np.issubdtype(label.dtype, np.integer):
        label = label.astype(np.int64)
    trans_info = tuple((kind, (int(size[0]), int(size[1]))) for kind, size in item.get('trans_info', []))
    return Sample(index, image, np.ascontiguousarray(label), trans_info)


def _label_name(dataset: Any, index: int) -> str:
    files = getattr(dataset, 'file_list', None)
    entry = files[index] if files else None
    return str(entry[1]) if isinstance(entry, (list, tuple)) and len(entry) > 1 else sample_name(dataset, index)


def unreadable_reason(dataset: Any, index: int) -> str | None:
    """Why a sample could not be read, when it is the fault of a file."""
    files = getattr(dataset, 'file_list', None)
    entry = files[index] if files else ()
    paths = entry if isinstance(entry, (list, tuple)) else (entry,)
    remedy = 'Replace it or remove its line from the list; `paddleseg data check` finds all such files.'
    if paths and cv2.imread(str(paths[0])) is None:
        return f'{paths[0]}: cannot be read as an image (missing or corrupt). {remedy}'
    if len(paths) > 1 and paths[1] is not None:
        try:
            with Image.open(paths[1]) as label:
                label.load()
        except (OSError, SyntaxError) as error:
            return f'{paths[1]}: cannot be read as a label ({error}). {remedy}'
    return None

"""Inspection of a data set as training will see it: files, sizes, label ids, class shares, duplicates."""
from __future__ import annotations

import copy
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from paddleseg_ext.errors import UserError

__all__ = ['Finding', 'Report', 'class_weights', 'find_duplicates', 'inspect_dataset']

SHOWN_IDS = 8


@dataclass(frozen=True)
class Finding:
    """One problem: its kind (such as 'missing file'), the file it is about, and what is wrong."""

    kind: str
    file: str
    message: str

    def __str__(self) -> str:
        return f'{self.kind}: {self.file}: {self.message}' if self.message else f'{self.kind}: {self.file}'


@dataclass
class Report:
    """What the inspection of one data set found.

    Attributes:
        name: 'train', 'val' or what the caller called it.
        samples: entries in the list; inspected: how many of them were looked at.
        findings: the problems.
        pixels: int64 [classes], label pixels of each class; ignored: pixels with the ignored id.
        images_with: int64 [classes], number of images in which the class occurs.
        sizes: how often each image size (width, height) occurs.
    """

    name: str
    num_classes: int
    samples: int = 0
    inspected: int = 0
    findings: list = field(default_factory=list)
    pixels: np.ndarray = None
    images_with: np.ndarray = None
    ignored: int = 0
    sizes: Counter = field(default_factory=Counter)
    digests: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.num_classes, dtype=np.int64)
        self.images_with = np.zeros(self.num_classes, dtype=np.int64)

    @property
    def shares(self) -> np.ndarray:
        """The classes' shares of the labelled pixels, float64 [classes], 0–1."""
        return self.pixels / max(int(self.pixels.sum()), 1)

    def add(self, kind: str, file: str, message: str = '') -> None:
        """Notes a problem."""
        self.findings.append(Finding(kind, str(file), message))

    def to_dict(self) -> dict:
        """Returns everything as JSON can hold it."""
        return {'name': self.name, 'samples': self.samples, 'inspected': self.inspected, 'ignored_pixels': self.ignored,
                'pixels': self.pixels.tolist(), 'shares': self.shares.tolist(),
                'images_with_class': self.images_with.tolist(), 'class_weights': class_weights(self.shares).tolist(),
                'sizes': [[width, height, count] for (width, height), count in self.sizes.most_common()],
                'problems': [vars(finding) for finding in self.findings]}


def class_weights(shares) -> np.ndarray:
    """Returns loss weights 1 / ln(1.1 + share), float64 [classes], for shares of 0–1.

    The form is ENet's (arXiv 1606.02147), which has 1.02 in place of 1.1.
    """
    return 1.0 / np.log(1.1 + np.asarray(shares, dtype=np.float64))


def inspect_dataset(dataset, *, name: str = 'data set', limit: int | None = None, progress: bool = True) -> Report:
    """Reads a PaddleSeg data set and reports what is wrong with it.

    Labels are read by the data set's own code (which may renumber ids), without its transforms.

    Args:
        dataset: has num_classes, ignore_index, transforms, file_list of (image, label) paths and `[index]`.
        name: what to call it in the report and on the progress bar.
        limit: look at this many samples, spread evenly over the list; None for all.
        progress: whether to show a bar on stderr.

    Raises:
        UserError: the limit is not positive.
    """
    if limit is not None and limit < 1:
        raise UserError(f'limit is {limit}, but at least 1 sample has to be looked at')
    report = Report(name=name, num_classes=dataset.num_classes, samples=len(dataset))
    if not len(dataset):
        report.add('empty', name, 'the list has no samples')
        return report
    reader = _without_transforms(dataset)
    count = min(limit or len(dataset), len(dataset))
    for index in _progress(np.linspace(0, len(dataset) - 1, count).astype(int).tolist(), name, progress):
        _inspect_sample(report, reader, index)
    return report


def find_duplicates(train: Report, val: Report) -> list[Finding]:
    """Returns a finding for every image of `val` whose bytes are also an image of `train`."""
    return [Finding('in train and val', file, f'same image as {train.digests[digest]}')
            for digest, file in val.digests.items() if digest in train.digests]


def _without_transforms(dataset):
    from paddleseg.transforms import Compose
    reader = copy.copy(dataset)
    reader.transforms = Compose([], to_rgb=False, img_channels=getattr(dataset, 'img_channels', 3))
    reader.edge = False
    return reader


def _inspect_sample(report: Report, reader, index: int) -> None:
    report.inspected += 1
    image, label = (list(reader.file_list[index]) + [None])[:2]
    files = [Path(path) for path in (image, label) if path is not None]
    missing = [path for path in files if not path.is_file()]
    for path in missing:
        report.add('missing file', path)
    if missing:
        return
    _note_digest(report, files[0])
    if label is None:
        report.add('no label', files[0], 'the list names no label for this image')
        return
    size = _image_size(report, files[0])
    if size is not None:
        report.sizes[size] += 1
        _inspect_label(report, reader, index, size, files[1])


def _note_digest(report: Report, image: Path) -> None:
    digest = hashlib.sha1(image.read_bytes()).hexdigest()
    report.digests.setdefault(digest, str(image))


def _image_size(report: Report, image: Path):
    """Returns (width, height), or None (and a finding) for an image that cannot be decoded whole."""
    try:
        with Image.open(image) as opened:
            opened.load()
            size = opened.size
    except (OSError, SyntaxError, ValueError) as error:
        report.add('unreadable image', image, str(error))
        return None
    # NOTE: OpenCV is asked too, because training reads with it and it knows fewer formats.
    if not cv2.haveImageReader(str(image)):
        report.add('unreadable image', image, 'OpenCV, which training reads images with, does not know its format')
        return None
    return size


def _inspect_label(report: Report, reader, index: int, size: tuple, label: Path) -> None:
    try:
        ids = np.asarray(reader[index]['label'])
    except Exception as error:  # NOTE: every kind, because data set classes raise whatever their readers raise.
        report.add('unreadable label', label, f'{type(error).__name__}: {error}')
        return
    if ids.ndim == 3 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.ndim != 2:
        report.add('label is not a map of ids', label, f'its shape is {ids.shape}; it needs one channel of class ids')
        return
    if (ids.shape[1], ids.shape[0]) != tuple(size):
        report.add('size mismatch', label, f'label {ids.shape[1]}x{ids.shape[0]}, image {size[0]}x{size[1]}')
    _count_ids(report, reader, ids, label)


def _count_ids(report: Report, reader, ids: np.ndarray, label: Path) -> None:
    values, counts = np.unique(ids, return_counts=True)
    outside = []
    for value, count in zip(values.tolist(), counts.tolist()):
        if value == reader.ignore_index:
            report.ignored += count
        elif 0 <= value < report.num_classes:
            report.pixels[value] += count
            report.images_with[value] += 1
        else:
            outside.append((value, count))
    if outside:
        shown = ', '.join(f'{value} ({count} pixels)' for value, count in outside[:SHOWN_IDS])
        more = f' and {len(outside) - SHOWN_IDS} more' if len(outside) > SHOWN_IDS else ''
        report.add('label id outside the classes', label, f'{shown}{more}; allowed are 0–{report.num_classes - 1} and '
                   f'{reader.ignore_index} (ignored)')


def _progress(items, title: str, shown: bool):
    if not shown:
        return items
    from tqdm import tqdm
    return tqdm(items, desc=title, unit='image')

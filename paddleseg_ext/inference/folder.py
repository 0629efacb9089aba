"""Segment images from disk with an exported program: results, figures against labels, and what could not be done."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from paddleseg_ext.data.image_io import ImageItem, displayable, read_image
from paddleseg_ext.data.outputs import claim_outputs
from paddleseg_ext.data.render import write_prediction
from paddleseg_ext.errors import UserError
from paddleseg_ext.inference.segmenter import BatchQueue, Prepared, Segmenter
from paddleseg_ext.metrics import ConfusionMatrix

__all__ = ['FolderReport', 'segment_folder']


@dataclass
class FolderReport:
    """What became of the images: image → its files (none when nothing was to be written), and image → why not."""

    done: dict[Path, list[Path]] = field(default_factory=dict)
    failures: dict[Path, str] = field(default_factory=dict)


def segment_folder(segmenter: Segmenter, items: Sequence[ImageItem], save_dir: str | Path | None, *,
                   names: Sequence[str] = (), colors: Sequence[Sequence[int]] = (),
                   matrix: ConfusionMatrix | None = None, progress: bool = True) -> FolderReport:
    """Segment all images; one that cannot be done does not keep the others from it.

    Args:
        segmenter: groups images of equal size into its batches.
        items: what `data.image_io.list_images` gave.
        save_dir: gets ids, palette masks and overlays as `paddleseg predict` writes them; None writes nothing.
        names, colors: by class, for the pictures.
        matrix: counts predictions against the items' labels; items without one are failures then.
        progress: show a bar on stderr.

    Raises:
        UserError: results would overwrite those of another image; nothing is written then.
    """
    outputs = claim_outputs(items, save_dir) if save_dir is not None else [None] * len(items)
    # NOTE: None leaves the bar away where stderr is no terminal.
    bar = tqdm(total=len(items), desc='infer', unit='image', file=sys.stderr, leave=False,
               disable=None if progress else True)
    sink = _Sink(save_dir, names, colors, matrix, bar)
    queue = BatchQueue(segmenter, sink.deliver, lambda prepared, problem: sink.fail(prepared.tag[0], problem))
    with bar:
        for item, output in zip(items, outputs):
            try:
                image = read_image(item.path, channels=segmenter.deployment.in_channels)
                prepared = segmenter.prepare(image, (item, output, image))
            except (ValueError, RuntimeError, OSError, MemoryError) as problem:
                sink.fail(item, problem)
            else:
                queue.add(prepared)
        queue.flush()
    return sink.report


@dataclass
class _Sink:
    """Where masks and failures go."""

    save_dir: str | Path | None
    names: Sequence[str]
    colors: Sequence[Sequence[int]]
    matrix: ConfusionMatrix | None
    bar: tqdm
    report: FolderReport = field(default_factory=FolderReport)

    def deliver(self, prepared: Prepared, mask: np.ndarray) -> None:
        item, output, image = prepared.tag
        files = []
        try:
            if self.matrix is not None:
                self.matrix.update(mask, _read_label(item, mask.shape))
            if self.save_dir is not None:
                files = write_prediction(self.save_dir, output, mask, displayable(image), self.colors, self.names)
        except (ValueError, OSError) as problem:
            self.fail(item, problem)
            return
        self.report.done[item.path] = files
        self.bar.update()

    def fail(self, item: ImageItem, problem: Exception) -> None:
        text = str(problem).strip() or type(problem).__name__
        self.report.failures[item.path] = text[len(f'{item.path}: '):] if text.startswith(f'{item.path}: ') else text
        self.bar.update()


def _read_label(item: ImageItem, shape: tuple) -> np.ndarray:
    """The ids of an item's ground truth, int64 `[H, W]`.

    Raises:
        UserError: there is none, it cannot be read, or it has another size than the image.
    """
    if item.label is None:
        raise UserError('has no label: --evaluate needs a list file with lines `image label`.')
    try:
        with Image.open(item.label) as picture:
            label = np.asarray(picture)
    except (OSError, SyntaxError) as problem:
        raise UserError(f'its label {item.label} cannot be read: {problem}') from problem
    if label.shape != shape:
        raise UserError(f'its label {item.label} has shape {list(label.shape)}, and the image has {list(shape)}: '
                        'labels are single-channel pictures of the image\'s size.')
    return label.astype(np.int64)

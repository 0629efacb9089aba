"""Images in, label masks at the images' own size out: pre-processing, the program, post-processing."""
from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from paddleseg_ext.data.image_io import preprocess
from paddleseg_ext.errors import UserError
from paddleseg_ext.inference.deploy import Deployment
from paddleseg_ext.inference.latency import Stopwatch
from paddleseg_ext.inference.restore import has_resize, restore_labels, restore_scores
from paddleseg_ext.inference.runner import Runner

__all__ = ['BatchQueue', 'Prepared', 'Segmenter']


@dataclass
class Prepared:
    """An image that is ready for the program.

    Attributes:
        pixels: float32 `[C, H, W]`.
        trans_info: what the transforms did to the size, as PaddleSeg notes it.
        tag: whatever the caller wants to find again.
    """

    pixels: np.ndarray
    trans_info: list
    tag: object = None

    @property
    def group(self) -> tuple:
        """Images of one group fit into one batch and are restored alike."""
        return self.pixels.shape, tuple((str(entry[0]), tuple(int(side) for side in entry[1]))
                                        for entry in self.trans_info)


@dataclass
class Segmenter:
    """A deployment and a runner.

    Attributes:
        deployment: the export folder.
        runner: the loaded program.
        batch_size: images of equal size that run together; a program exported for a fixed batch decides itself.
        warmup: untimed runs the first time an input shape is met.
        repeats: timed runs of each batch; more than one only makes the figures steadier.
        stopwatch: times of the stages `pre` (per image), `run` and `post` (per batch).
    """

    deployment: Deployment
    runner: Runner
    batch_size: int = 1
    warmup: int = 0
    repeats: int = 1
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    def __post_init__(self):
        if self.batch_size < 1:
            raise UserError(f'--batch_size {self.batch_size}: at least 1 is needed.')
        fixed = self.deployment.input_shape[0]
        self.batch_size = fixed if fixed > 0 else self.batch_size
        self._compose = self.deployment.compose()
        self._warm_shapes: set = set()
        self._warned = False

    def prepare(self, image: np.ndarray, tag: object = None) -> Prepared:
        """Pre-process one image.

        Args:
            image: as `data.image_io.read_image` gives it (`[H, W, 3]` BGR, 0–255).
            tag: kept in the result.

        Raises:
            UserError: the transforms cannot take the image, or they give a size that the program or its model does
                not take.
        """
        with self.stopwatch.time('pre'):
            pixels, trans_info = preprocess(image, self._compose)
        pixels = np.asarray(pixels, dtype=np.float32)
        for given, wanted, name in zip(pixels.shape, self.deployment.input_shape[1:], ('channels', 'height', 'width')):
            if wanted > 0 and given != wanted:
                raise UserError(f'after the transforms {name} is {given}, and the program was exported for {wanted} '
                                f'(input_shape {list(self.deployment.input_shape)}). Export with that side -1, or with '
                                'transforms that resize or pad to it.')
        least, (height, width) = self.deployment.minimum_size, pixels.shape[-2:]
        if min(height, width) < least:
            raise UserError(f'the exported model needs images of at least {least}×{least} pixels, but got '
                            f'{height}×{width} (height × width); pad or enlarge them.')
        return Prepared(pixels, list(trans_info), tag)

    def predict(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Label masks, int32 `[H, W]` at each image's own size, in the order of `images` (BGR, `[H, W, C]`)."""
        masks: list[np.ndarray | None] = [None] * len(images)

        def keep(prepared: Prepared, mask: np.ndarray) -> None:
            masks[prepared.tag] = mask

        queue = BatchQueue(self, keep)
        for index, image in enumerate(images):
            queue.add(self.prepare(image, index))
        queue.flush()
        return masks

    def run_batch(self, batch: Sequence[Prepared]) -> np.ndarray:
        """Masks int32 `[N, H, W]` of prepared images of one group, at their original size."""
        pixels = np.stack([prepared.pixels for prepared in batch])
        missing = self.deployment.input_shape[0] - len(batch)
        if missing > 0:
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)])
        if pixels.shape not in self._warm_shapes:
            self._warm_shapes.add(pixels.shape)
            for _ in range(self.warmup):
                self.runner.run(pixels)
        for _ in range(self.repeats):
            with self.stopwatch.time('run', items=len(batch)):
                output = self.runner.run(pixels)[:len(batch)]
        with self.stopwatch.time('post', items=len(batch)):
            return self._restore(output, batch[0].trans_info)

    def _restore(self, output: np.ndarray, trans_info: list) -> np.ndarray:
        if self.deployment.output_op != 'argmax':
            return restore_scores(output, trans_info, are_probabilities=self.deployment.output_op == 'softmax')
        if has_resize(trans_info) and not self._warned:
            self._warned = True
            logging.getLogger('paddleseg_ext').warning(
                'The transforms resize, and the program gives labels (output_op: argmax): they are scaled back by '
                'nearest neighbour, so masks can differ from `paddleseg predict` along borders. Export with '
                '--output_op none for equal masks.')
        return restore_labels(output, trans_info)


class BatchQueue:
    """Collects prepared images by group and runs each group when a batch is full.

    Args:
        segmenter: what runs them; its `batch_size` fills a batch.
        deliver: called with (prepared image, mask int32 `[H, W]`).
        fail: called with (prepared image, error) when the batch it is in cannot be run; None raises.
    """

    # Images that wait while no group is full, as a multiple of the batch size: bounds the memory.
    _WAITING_BATCHES = 4

    def __init__(self, segmenter: Segmenter, deliver: Callable, fail: Callable | None = None):
        self._segmenter = segmenter
        self._deliver = deliver
        self._fail = fail
        self._groups: dict[tuple, list[Prepared]] = defaultdict(list)

    def add(self, prepared: Prepared) -> None:
        group = self._groups[prepared.group]
        group.append(prepared)
        if len(group) >= self._segmenter.batch_size:
            self._run(prepared.group)
        elif sum(map(len, self._groups.values())) > self._WAITING_BATCHES * self._segmenter.batch_size:
            self._run(max(self._groups, key=lambda key: len(self._groups[key])))

    def flush(self) -> None:
        """Run everything that still waits."""
        for key in list(self._groups):
            self._run(key)

    def _run(self, key: tuple) -> None:
        batch = self._groups.pop(key)
        try:
            masks = self._segmenter.run_batch(batch)
        except (RuntimeError, ValueError, OSError, MemoryError) as problem:
            if self._fail is None:
                raise
            for prepared in batch:
                self._fail(prepared, problem)
            return
        for prepared, mask in zip(batch, masks):
            self._deliver(prepared, mask)

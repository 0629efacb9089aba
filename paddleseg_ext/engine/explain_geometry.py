"""Where the cells of a model's maps lie on an image, and which cell a point of the image falls into.

Three coordinates: pixels of the image on disk, pixels of the model's input (what the transforms made of the image) and
cells of a map inside the model. All begin at the top left corner; pixel 0 reaches from 0 to 1.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ['Frame', 'Grid', 'Point', 'class_centres', 'frame_of']


@dataclass(frozen=True)
class Point:
    """A pixel of the image on disk: column `x`, row `y`, and the name of the class predicted there."""

    x: int
    y: int
    name: str


@dataclass(frozen=True)
class Grid:
    """The cells of a map.

    Attributes:
        rows, columns: how many.
        cell: height and width of one in pixels of the model's input.
    """

    rows: int
    columns: int
    cell: tuple[float, float]

    def index(self, y: float, x: float) -> int:
        """Which cell, in reading order, holds a place of the input; the nearest for what lies beyond the last."""
        row = min(int(y / self.cell[0]), self.rows - 1)
        column = min(int(x / self.cell[1]), self.columns - 1)
        return row * self.columns + column


@dataclass(frozen=True)
class Frame:
    """One image, what the transforms made of it, and the points to look from.

    Attributes:
        image_size: height and width of the image on disk, in pixels.
        input_size: height and width of the model's input, in pixels; may be padded at the right and at the bottom.
        scale: pixels of the input for one of the image, along height and width.
        points: in the image.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    scale: tuple[float, float]
    points: tuple[Point, ...] = ()

    def grid(self, rows: int, columns: int) -> Grid:
        """Where the cells of a map of the whole input lie.

        Strides are powers of two, so that the last row and column may reach beyond the input or end before it; a map
        whose size belongs to no such stride is spread over the input evenly.
        """
        height, width = self.input_size
        stride = 2.**round(math.log2(max(height, width) / max(rows, columns)))
        fits = abs(rows * stride - height) < stride and abs(columns * stride - width) < stride
        return Grid(rows, columns, (stride, stride) if fits else (height / rows, width / columns))

    def even_grid(self, rows: int, columns: int) -> Grid:
        """Cells that cover the input evenly, as those of adaptive pools do."""
        return Grid(rows, columns, (self.input_size[0] / rows, self.input_size[1] / columns))

    def token_grid(self, tokens: int) -> Grid:
        """The grid of a sequence of patches in reading order, ⌈H/patch⌉ rows of ⌈W/patch⌉, patch a power of two.

        Raises:
            ValueError: no patch gives so many tokens.
        """
        height, width = self.input_size
        for patch in (2**power for power in range(12)):
            rows, columns = math.ceil(height / patch), math.ceil(width / patch)
            if rows * columns == tokens:
                return Grid(rows, columns, (patch, patch))
        raise ValueError(f'{tokens} tokens are no map of an input of {height}×{width} pixels (height × width) with '
                         'patches of 1, 2, 4, … pixels.')

    def cells(self, grid: Grid) -> np.ndarray:
        """The cells, in reading order, that the points fall into: int64 [points]."""
        return np.array([grid.index((point.y + 0.5) * self.scale[0], (point.x + 0.5) * self.scale[1])
                         for point in self.points], dtype=np.int64)

    def sample(self, values: np.ndarray, grid: Grid, size: tuple[int, int]) -> np.ndarray:
        """A map painted over the image, cell by cell.

        Args:
            values: [rows, columns] of `grid`.
            grid: where its cells lie.
            size: height and width of the painting, which covers the whole image.

        Returns:
            float32 of that size; NaN where no cell reaches.
        """
        painted = np.full((grid.rows + 1, grid.columns + 1), np.nan, dtype=np.float32)
        painted[:-1, :-1] = values
        picks = []
        for axis, count in enumerate((grid.rows, grid.columns)):
            places = (np.arange(size[axis]) + 0.5) / size[axis] * self.image_size[axis] * self.scale[axis]
            picks.append(np.minimum((places / grid.cell[axis]).astype(np.int64), count))
        return painted[np.ix_(*picks)]


def frame_of(image_size: Sequence[int], input_size: Sequence[int], trans_info: Sequence,
             points: Sequence[Point] = ()) -> Frame:
    """The frame of an image.

    Args:
        image_size, input_size: height and width of the image and of the model's input, in pixels.
        trans_info: the transforms' notes, [('resize' | 'padding', size before), …], as ``data.image_io.preprocess``
            gives them.
        points: in the image.
    """
    scale = [1., 1.]
    sizes = [size for _, size in trans_info] + [tuple(input_size)]
    for (kind, before), after in zip(trans_info, sizes[1:]):
        if kind == 'resize':  # padding is at the right and at the bottom, so it moves nothing
            scale = [factor * new / old for factor, new, old in zip(scale, after, before)]
    return Frame(tuple(image_size), tuple(input_size), tuple(scale), tuple(points))


def class_centres(labels: np.ndarray, *, limit: int = 4) -> list[tuple[int, int]]:
    """For each of the `limit` largest classes the pixel (x, y) that is farthest inside it, largest class first.

    Args:
        labels: class ids [H, W].
        limit: at most so many.
    """
    ids, counts = np.unique(labels, return_counts=True)
    centres = []
    for class_id in ids[np.argsort(-counts, kind='stable')][:limit]:
        inside = np.pad((labels == class_id).astype(np.uint8), 1)
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        centres.append((int(column), int(row)))
    return centres

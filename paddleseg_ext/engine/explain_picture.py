"""What a layer attends to as a picture: a row for each thing to see, a column for each head, numbers for colours."""
from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from paddleseg_ext.engine.explain_geometry import Frame
from paddleseg_ext.engine.explain_looks import Look, Row
from paddleseg_ext.files import atomic_path

__all__ = ['heat_over_image', 'write_look']

COLORS = 'inferno'  # perceptually uniform
HEAT = 0.7
"""Weight of the heat's colour over the gray image, 0–1."""
DOTS = 110  # an inch, which sets the size of letters

# Pixels.
PANEL = 253  # the longer side of the image
MARGIN, GAP = 17, 16
LEAST_WIDTH = 715
ABREAST = 4
"""So many maps of a row stand beside each other, besides the image and the mean; more go below."""
TITLE, LINE, ROW_TITLE, CAPTION, FOOT = 44, 19, 26, 21, 33
BAR_GAP, BAR, TICKS = 6, 9, 22
INK, FAINT, WHITE = '#202124', '#5f6368', 'white'


@dataclass(frozen=True)
class _Layout:
    """Where things are, in pixels from the top left corner.

    Attributes:
        panel: height and width of a map.
        lead: columns that no row continues below: the image and the mean, if there is one.
        maps: how many each row has besides; rows of up to two columns stand side by side in pairs.
        text: what is said below the title.
    """

    panel: tuple[int, int]
    lead: int
    maps: tuple[int, ...]
    text: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the whole."""
        return self._band_top(len(self.maps)) + FOOT, self._width

    @property
    def lines(self) -> list[str]:
        """The text, broken to the width."""
        return textwrap.wrap(self.text, self._width // 7)

    def place(self, row: int, column: int) -> tuple[int, int]:
        """Left and top of a map; what is said about it stands above."""
        line = 0
        if column >= self.lead:
            line, column = divmod(column - self.lead, ABREAST)
            column += self.lead
        left = MARGIN + (row % self._abreast * self._columns + column) * (self.panel[1] + GAP)
        return left, self._band_top(row // self._abreast) + ROW_TITLE + line * self._line_height + CAPTION

    @property
    def _columns(self) -> int:
        return self.lead + min(max(self.maps), ABREAST)

    @property
    def _abreast(self) -> int:
        return 2 if self._columns <= 2 and len(self.maps) > 1 else 1

    @property
    def _width(self) -> int:
        return max(2 * MARGIN + self._abreast * self._columns * (self.panel[1] + GAP) - GAP, LEAST_WIDTH)

    @property
    def _head(self) -> int:
        return MARGIN + TITLE + LINE * len(self.lines)

    @property
    def _line_height(self) -> int:
        return CAPTION + self.panel[0] + BAR_GAP + BAR + TICKS + GAP

    def _band_top(self, band: int) -> int:
        """Where a row, or a pair that stands side by side, begins; beyond the last, where all end."""
        above = self.maps[::self._abreast][:band]
        lines = sum(math.ceil(count / ABREAST) for count in above)
        return self._head + len(above) * ROW_TITLE + lines * self._line_height


def write_look(look: Look, image: np.ndarray, frame: Frame, path: str | Path, *, layer: str,
               heads: Sequence[int]) -> None:
    """Draw what a layer attends to over the image, written atomically as PNG.

    Args:
        look: of the layer.
        image: uint8 RGB [H, W, 3].
        frame: of the image, with the points to mark.
        path: the file.
        layer: its name.
        heads: numbers of the heads or tokens to draw; the picture says if the layer has more.
    """
    # NOTE: the object interface instead of pyplot, because a library must not change the program's backend or figures.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    longer = max(image.shape[:2])
    panel = tuple(max(round(PANEL * side / longer), PANEL // 6) for side in image.shape[:2])
    left_out = '' if len(heads) == look.heads else f'; {len(heads)} of {look.heads} {look.unit}s'
    maps = tuple(len(heads if row.numbers is None else row.numbers) for row in look.rows)
    layout = _Layout(panel, 1 + (look.averages and look.heads > 1), maps, look.shows + left_out)
    height, width = layout.size
    figure = Figure(figsize=(width / DOTS, height / DOTS), dpi=DOTS)
    FigureCanvasAgg(figure)
    drawing = _Drawing(figure.add_axes([0., 0., 1., 1.]), layout, image, frame)
    drawing.draw(look, layer, heads)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Glyph')  # names in a script that the font lacks
        figure.savefig(temporary, format='png')


def heat_over_image(values: np.ndarray, image: np.ndarray, top: float) -> np.ndarray:
    """Colours of `values` over the gray image.

    Args:
        values: [H, W], 0 to `top`; NaN leaves the gray image, faded.
        image: uint8 RGB [H, W, 3].
        top: value of the brightest colour, above 0.

    Returns:
        float RGB [H, W, 3], 0–1.
    """
    gray = 0.15 + 0.75 * cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., np.newaxis] / 255.  # dark images stay visible
    heat = _colors(np.nan_to_num(values) / top)
    faded = 0.5 + 0.5 * np.broadcast_to(gray, heat.shape)
    return np.where(np.isnan(values)[..., np.newaxis], faded, (1. - HEAT) * gray + HEAT * heat)


def _colors(shares: np.ndarray) -> np.ndarray:
    """0–1 to float RGB 0–1."""
    from matplotlib import colormaps
    return colormaps[COLORS](np.clip(shares, 0., 1.))[..., :3]


class _Drawing:
    """One picture: pixels are laid on a canvas, letters and marks over it, all in the canvas's coordinates."""

    def __init__(self, axes, layout: _Layout, image: np.ndarray, frame: Frame):
        self.axes, self.layout, self.frame = axes, layout, frame
        height, width = layout.panel
        self.image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        self.canvas = np.ones((*layout.size, 3))
        self.uncovered = False

    def draw(self, look: Look, layer: str, heads: Sequence[int]) -> None:
        self._text(MARGIN, MARGIN, layer, size=12, weight='bold')
        for number, line in enumerate(self.layout.lines):
            self._text(MARGIN, MARGIN + 27 + LINE * number, line, size=8.5, color=FAINT)
        for number, row in enumerate(look.rows):
            left, top = self.layout.place(number, 0)
            self._text(left, top - CAPTION - ROW_TITLE + 2, row.title, size=9, weight='bold')
            self._draw_image(number, row, look)
            for column, (caption, values) in enumerate(_panels(look, row, heads), 1):
                left, top = self.layout.place(number, column)
                self._text(left, top - CAPTION + 2, caption, size=8)
                self._draw_map(left, top, row, values)
        self._text(MARGIN, self.layout.size[0] - FOOT + 5, self._notes(look), size=7.5, color=FAINT)
        self.axes.imshow(self.canvas, interpolation='nearest', aspect='auto')
        height, width = self.layout.size
        self.axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        self.axes.set_axis_off()

    def _notes(self, look: Look) -> str:
        notes = ['Every panel has its own scale.']
        even = dict.fromkeys(row.even for row in look.rows if row.even is not None)
        if even:
            shares = ', '.join(f'1/{1 / share:.0f} = {100 * share:.2g} %' for share in even)
            notes.append(f'White line on a colour bar: the even share, {shares}.')
        if self.uncovered:
            notes.append('Faded: no cell reaches there.')
        return ' '.join(notes)

    def _draw_image(self, number: int, row: Row, look: Look) -> None:
        """The image with the points of all rows in the first, with its own in the row of a point."""
        if number and row.point is None:
            return
        left, top = self.layout.place(number, 0)
        self._text(left, top - CAPTION + 2, 'image', size=8)
        self._paste(left, top, self.image / 255.)
        for each in look.rows if row.point is None else [row]:
            if each.point is not None:
                self._mark(left, top, each.point, numbered=True)

    def _draw_map(self, left: int, top: int, row: Row, values: np.ndarray) -> None:
        most = max(float(values.max()), 1e-12)
        height, width = self.layout.panel
        if row.grid is None:
            width = min(height, width)
            steps = (np.arange(width) * len(values)) // width
            self._paste(left, top + height - width, _colors(values[np.ix_(steps, steps)] / most))
        else:
            painted = self.frame.sample(values, row.grid, self.layout.panel)
            self.uncovered |= bool(np.isnan(painted).any())
            self._paste(left, top, heat_over_image(painted, self.image, most))
            if row.point is not None:
                self._mark(left, top, row.point, numbered=False)
        self._draw_bar(left, top + height + BAR_GAP, width, most, row)

    def _draw_bar(self, left: int, top: int, width: int, most: float, row: Row) -> None:
        """The colours, where they lie over an image as they are over mid-gray, and the numbers of three of them."""
        ramp = _colors(np.broadcast_to(np.linspace(0., 1., width), (BAR, width)))
        self._paste(left, top, ramp if row.grid is None else (1. - HEAT) * 0.5 + HEAT * ramp)
        share = row.even is not None
        for place, side in ((0., 'left'), (0.5, 'center'), (1., 'right')):
            text = _number(most * place * (100. if share else 1.)) + (' %' if share and place == 1. else '')
            x = left + place * (width - 1)
            self.axes.plot([x, x], [top + BAR, top + BAR + 2], color=INK, linewidth=0.6)
            self._text(x, top + BAR + 4, text, size=7, ha=side)
        if share and row.even < most:
            x = left + row.even / most * (width - 1)
            for color, thickness in (('black', 3.), (WHITE, 1.4)):
                self.axes.plot([x, x], [top, top + BAR - 1], color=color, linewidth=thickness, solid_capstyle='butt')

    def _paste(self, left: int, top: int, pixels: np.ndarray) -> None:
        self.canvas[top:top + pixels.shape[0], left:left + pixels.shape[1]] = pixels

    def _mark(self, left: int, top: int, index: int, *, numbered: bool) -> None:
        point = self.frame.points[index]
        y, x = ((value + 0.5) / whole * side - 0.5 for value, whole, side in
                zip((point.y, point.x), self.frame.image_size, self.layout.panel))
        for color, width in (('black', 2.6), (WHITE, 1.2)):
            self.axes.plot(left + x, top + y, 'o', markersize=7, markerfacecolor='none', markeredgecolor=color,
                           markeredgewidth=width)
        if numbered:
            away, side = (9, 'left') if x < 0.85 * self.layout.panel[1] else (-9, 'right')
            self._text(left + x + away, top + y, str(index + 1), size=8, color=WHITE, weight='bold', ha=side,
                       va='center', bbox={'boxstyle': 'round,pad=0.15', 'facecolor': 'black', 'edgecolor': 'none',
                                          'alpha': 0.75})

    def _text(self, x: float, y: float, text: str, *, size: float, color: str = INK, weight: str = 'normal',
              ha: str = 'left', va: str = 'top', bbox: dict | None = None) -> None:
        self.axes.text(x, y, text, fontsize=size, color=color, weight=weight, ha=ha, va=va, bbox=bbox, parse_math=False)


def _panels(look: Look, row: Row, heads: Sequence[int]) -> list[tuple[str, np.ndarray]]:
    """Caption and values of each map of a row."""
    captions = row.captions or ('',) * len(row.maps)
    if look.unit == 'head' and look.heads == 1:
        return [(captions[0] or 'the only head', row.maps[0])]
    numbers = look.numbers if row.numbers is None else row.numbers
    panels = [(' · '.join(filter(None, (f'{look.unit} {number}', caption))), values)
              for number, caption, values in zip(numbers, captions, row.maps)
              if row.numbers is not None or number in heads]
    if look.averages:
        panels.insert(0, (f'mean of {len(row.maps)} heads', row.maps.mean(axis=0)))
    return panels


def _number(value: float) -> str:
    """Three digits, without the zeros that say nothing."""
    return f'{value:.3g}' if value < 1000 else f'{value:.0f}'

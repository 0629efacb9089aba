"""Results as pictures: palette masks, overlays with a legend, contact sheets; and their files."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paddleseg_ext.files import atomic_path

__all__ = ['IDS_FOLDER', 'OVERLAY_FOLDER', 'PALETTE_FOLDER', 'RESULT_FOLDERS', 'color_mask', 'contact_sheet', 'id_mask',
           'overlay', 'write_prediction']

IDS_FOLDER = 'label_ids'
PALETTE_FOLDER = 'pseudo_color_prediction'
OVERLAY_FOLDER = 'added_prediction'
RESULT_FOLDERS = (IDS_FOLDER, PALETTE_FOLDER, OVERLAY_FOLDER)

BACKGROUND = (255, 255, 255)
INK = (32, 33, 36)
NO_CLASS = (0, 0, 0)


def id_mask(mask: np.ndarray) -> Image.Image:
    """Class ids ``[H, W]`` as a gray picture: 8 bits, or 16 where an id is above 255."""
    if mask.size and mask.max() > 255:
        return Image.fromarray(mask.astype(np.uint16))
    return Image.fromarray(mask.astype(np.uint8))


def color_mask(mask: np.ndarray, colors: Sequence[Sequence[int]]) -> Image.Image:
    """Class ids ``[H, W]`` as a palette picture, whose pixels are the ids and whose palette is `colors`.

    Args:
        mask: ids 0–255 (255, the usual "ignored", is black unless it is a class); ids above give an RGB picture.
        colors: ``[r, g, b]`` (0–255) by class.
    """
    if mask.size and mask.max() > 255:
        return Image.fromarray(_colored(mask, colors))
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(_table(colors, 256).reshape(-1).tolist())
    return picture


def overlay(image_rgb: np.ndarray, mask: np.ndarray, colors: Sequence[Sequence[int]], names: Sequence[str], *,
            alpha: float = 0.45) -> Image.Image:
    """The image with its classes laid over it, their borders drawn, and a legend of the classes present below.

    Args:
        image_rgb: uint8 ``[H, W, 3]``.
        mask: class ids ``[H, W]``.
        colors: ``[r, g, b]`` by class.
        names: by class.
        alpha: weight of the colour, 0–1; the rest is the image.

    Returns:
        an RGB picture. The image keeps its size and is at the top left; the legend may make the picture wider.
    """
    classes = _colored(mask, colors).astype(np.float32)
    blended = image_rgb.astype(np.float32) * (1.0 - alpha) + classes * alpha
    edges = _borders(mask, thickness=max(1, round(min(mask.shape) / 500)))
    blended[edges] = classes[edges] * 0.6 + 255.0 * 0.4
    picture = Image.fromarray(np.clip(np.rint(blended), 0, 255).astype(np.uint8))
    ids, counts = np.unique(mask, return_counts=True)
    order = np.argsort(-counts, kind='stable')
    entries = [(_color(colors, ids[index]), f'{_name(names, ids[index])}  {_percent(counts[index] / mask.size)}')
               for index in order]
    return _stacked([picture, _legend(entries, max(picture.width, 240), _text_size(picture.width))])


def contact_sheet(rows: Sequence[Sequence[Any]], headers: Sequence[str], *, titles: Sequence[str] | None = None,
                  legend: Sequence[tuple[str, Sequence[int]]] = (), tile_width: int = 420) -> Image.Image:
    """Pictures in rows and titled columns, all of one size, such as image · truth · prediction.

    Args:
        rows: per row as many pictures as `headers`: PIL pictures or uint8 ``[H, W, 3]`` RGB arrays.
        headers: column titles.
        titles: a line below each row.
        legend: (name, [r, g, b]) pairs drawn at the foot.
        tile_width: width of each picture on the sheet, in pixels; heights follow the first picture.

    Raises:
        ValueError: no rows, rows of another length than `headers`, or not one title per row.
    """
    if not rows or any(len(row) != len(headers) for row in rows):
        raise ValueError(f'rows have {[len(row) for row in rows]} pictures for {len(headers)} headers; a contact sheet '
                         'needs at least one row, and one picture per header in each.')
    if titles is not None and len(titles) != len(rows):
        raise ValueError(f'{len(titles)} titles for {len(rows)} rows; give one title per row.')
    first = _picture(rows[0][0])
    tile = (tile_width, max(1, round(tile_width * first.height / first.width)))
    gap, text = max(6, tile_width // 50), _text_size(2 * tile_width)
    width = gap + (tile_width + gap) * len(headers)
    parts = [_text_row(headers, tile_width, gap, text + 3)]
    for index, row in enumerate(rows):
        strip = Image.new('RGB', (width, tile[1] + (gap if titles is None else 0)), BACKGROUND)
        for column, cell in enumerate(row):
            picture = _picture(cell)
            smooth = picture.mode == 'RGB'  # NOTE: palette pictures are class ids, which have no values in between.
            picture = picture.resize(tile, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
            strip.paste(picture.convert('RGB'), (gap + column * (tile_width + gap), 0))
        parts.append(strip)
        if titles is not None:
            parts.append(_text_row([titles[index]], width - 2 * gap, gap, text))
    if legend:
        parts.append(_legend([(tuple(color), name) for name, color in legend], width, text))
    return _stacked(parts)


def write_prediction(save_dir: str | Path, relative: str | Path, mask: np.ndarray, image_rgb: np.ndarray,
                     colors: Sequence[Sequence[int]], names: Sequence[str]) -> list[Path]:
    """Write the ids, the palette mask and the overlay of one image, each file atomically.

    Args:
        save_dir: gets one folder per kind: `label_ids`, `pseudo_color_prediction`, `added_prediction`.
        relative: name below those folders, as ``data.outputs.claim_outputs`` chose it; its suffix becomes .png.
        mask: class ids ``[H, W]``.
        image_rgb: uint8 ``[H, W, 3]``.
        colors, names: by class.

    Returns:
        the three paths.
    """
    name = Path(relative).with_suffix('.png')
    pictures = {IDS_FOLDER: id_mask(mask), PALETTE_FOLDER: color_mask(mask, colors),
                OVERLAY_FOLDER: overlay(image_rgb, mask, colors, names)}
    for folder, picture in pictures.items():
        with atomic_path(Path(save_dir) / folder / name) as temporary:
            picture.save(temporary, format='PNG', compress_level=4)
    return [Path(save_dir) / folder / name for folder in pictures]


def _picture(cell: Any) -> Image.Image:
    return cell if isinstance(cell, Image.Image) else Image.fromarray(np.asarray(cell))


def _table(colors: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """Colours by id, ``[size, 3]`` uint8; ids without one are black."""
    table = np.zeros((size, 3), dtype=np.uint8)
    table[:min(len(colors), size)] = np.asarray(colors, dtype=np.uint8).reshape(-1, 3)[:size]
    return table


def _colored(mask: np.ndarray, colors: Sequence[Sequence[int]]) -> np.ndarray:
    return _table(colors, max(256, int(mask.max(initial=0)) + 1))[mask]


def _color(colors: Sequence[Sequence[int]], index: int) -> tuple[int, int, int]:
    return tuple(int(value) for value in colors[index]) if index < len(colors) else NO_CLASS


def _name(names: Sequence[str], index: int) -> str:
    return str(names[index]) if index < len(names) else f'id {index}'


def _percent(share: float) -> str:
    return f'{100 * share:.0f} %' if share >= 0.01 else f'{100 * share:.1f} %' if share >= 0.001 else '< 0.1 %'


def _borders(mask: np.ndarray, *, thickness: int) -> np.ndarray:
    """Pixels whose right or lower neighbour, `thickness` pixels on, is of another class: bool ``[H, W]``."""
    edges = np.zeros(mask.shape, dtype=bool)
    for step in range(1, thickness + 1):
        edges[:, :-step] |= mask[:, :-step] != mask[:, step:]
        edges[:-step] |= mask[:-step] != mask[step:]
    return edges


def _text_size(width: int) -> int:
    return int(min(max(12, width / 55), 40))


def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()


def _legend(entries: Sequence[tuple[tuple[int, ...], str]], width: int, size: int) -> Image.Image:
    """Swatches with text, wrapped to `width` (wider only when one entry does not fit)."""
    font, gap, line = _font(size), max(4, size // 2), round(size * 1.7)
    lengths = [size + gap + int(font.getlength(text)) + 2 * gap for _, text in entries]
    width = max([width] + [length + gap for length in lengths])
    places, left, row = [], gap, 0
    for length in lengths:
        if left + length > width and left > gap:
            left, row = gap, row + 1
        places.append((left, gap + row * line))
        left += length
    picture = Image.new('RGB', (width, 2 * gap + (row + 1) * line), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for (color, text), (left, top) in zip(entries, places):
        draw.rectangle([left, top, left + size, top + size], fill=tuple(color), outline=INK)
        draw.text((left + size + gap, top + size / 2), text, fill=INK, font=font, anchor=_anchor(font, 'lm'))
    return picture


def _text_row(texts: Sequence[str], cell_width: int, gap: int, size: int) -> Image.Image:
    """Texts centred over columns of `cell_width`."""
    font = _font(size)
    picture = Image.new('RGB', (gap + (cell_width + gap) * len(texts), round(size * 1.9)), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for column, text in enumerate(texts):
        centre = gap + column * (cell_width + gap) + cell_width / 2
        draw.text((centre, picture.height / 2), text, fill=INK, font=font, anchor=_anchor(font, 'mm'))
    return picture


def _anchor(font: Any, anchor: str) -> str | None:
    return anchor if isinstance(font, ImageFont.FreeTypeFont) else None  # bitmap fonts know no anchors


def _stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another, left-aligned on white."""
    sheet = Image.new('RGB', (max(picture.width for picture in pictures), sum(p.height for p in pictures)), BACKGROUND)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet

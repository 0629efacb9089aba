"""Which images there are, what is in them, and how they become the input of a model.

Images are read exactly as PaddleSeg's training and validation read them (``cv2.imread``), so that `predict` and an
exported program see what the model was trained on:

=========================  =========================================================================================
8 bit colour, gray         as they are; gray is repeated in the three channels
palette                    its colours
16 bit (PNG, TIFF)         the high byte of each value, which is value / 257 up to one level of 255
transparency               dropped, with one warning for PNG: the colour under transparent pixels is used as it is
EXIF orientation           applied
float, 32 bit              refused by name
=========================  =========================================================================================
"""
from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from paddleseg_ext.errors import UserError

__all__ = ['IMAGE_SUFFIXES', 'ImageItem', 'displayable', 'foreign_parts', 'list_images', 'preprocess', 'read_image']

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')

_WARNED: set[str] = set()


@dataclass(frozen=True)
class ImageItem:
    """One image to segment.

    Attributes:
        path: the file.
        relative: where results go below the output folder, with the image's own suffix.
        label: its ground truth, when a list file names one.
    """

    path: Path
    relative: Path
    label: Path | None = None


def list_images(path: str | Path, *, leave_out: str | Path | None = None) -> list[ImageItem]:
    """The images that a path means.

    Args:
        path: an image; a folder, searched with its sub-folders (names that start with a dot are left out); or a list
            file with lines ``image`` or ``image label``, relative to the folder of the list. Absolute paths of the
            machine that a list was written on are matched from their end, see :func:`foreign_parts`.
        leave_out: a folder inside the searched one that is not searched: the results' own.

    Returns:
        the images, of a folder sorted by path and of a list in its order, each once.

    Raises:
        UserError: nothing there, no image in the folder, or a file that is neither an image nor a list.
    """
    path = Path(path)
    if path.is_dir():
        items = _in_folder(path, leave_out)
        rule = f'images end in {", ".join(IMAGE_SUFFIXES)}'
    elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        return [ImageItem(path, Path(path.name))]
    elif path.is_file():
        items = _in_list(path)
        rule = 'a list has one line `image` or `image label` per image'
    else:
        raise UserError(f'{path}: no such file or folder. Give an image, a folder of images or a list file.')
    if not items:
        raise UserError(f'{path}: no images in it; {rule}.')
    return items


def foreign_parts(root: Path, names: Iterable[str]) -> int:
    """How many leading parts of listed paths belong to the machine that the list was written on.

    Args:
        root: the folder that the paths are to be found in.
        names: paths as they are in the list, such as ``/SegNet/CamVid/val/a.png`` for ``val/a.png``.

    Returns:
        the number of parts to leave away, the same for all: of the first path that is a file below `root` without
        them; 0 when there is none.
    """
    for name in names:
        parts = Path(name.lstrip('/')).parts
        for skipped in range(len(parts)):
            if os.path.isfile(root.joinpath(*parts[skipped:])):
                return skipped
    return 0


def read_image(path: str | Path, *, channels: int = 3) -> np.ndarray:
    """One image as OpenCV gives it to PaddleSeg's transforms.

    Args:
        path: the file.
        channels: what the model takes: 3 gives BGR, 1 gives gray; any other number is read as it is stored.

    Returns:
        uint8 ``[H, W, 3]`` (BGR) or ``[H, W]`` for one channel; for other numbers ``[H, W, channels]`` uint8, or
        float32 0–255 when the file has 16 bits.

    Raises:
        UserError: missing, unreadable or cut-off files, types other than 8 and 16 bit, other numbers of channels.
    """
    path = Path(path)
    if not os.path.isfile(path):  # Path.is_file raises where a folder above may not be entered
        raise UserError(f'{path}: no such file.')
    if channels not in (1, 3):
        return _read_bands(path, channels)
    _check_content(path)
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
    if image is None:
        raise _unreadable(path)
    return image


def preprocess(image: np.ndarray, compose: Any) -> tuple[np.ndarray, list]:
    """Run the validation transforms on one image, the same for `predict`, `val` and exported programs.

    Args:
        image: as :func:`read_image` gives it, BGR, 0–255.
        compose: PaddleSeg's ``Compose`` of transforms that need no label.

    Returns:
        float32 ``[channels, H, W]``, and the transforms' notes ``[('resize' | 'padding', (height, width)), …]`` that
        lead back to the image's size.

    Raises:
        UserError: the transforms cannot take this image.
    """
    data = {'img': image.astype(np.float32), 'trans_info': [], 'gt_fields': []}
    try:
        data = compose(data)
    except (KeyError, TypeError, ValueError, cv2.error) as error:
        text = f'the transforms cannot take an image of shape {list(image.shape)}: {type(error).__name__}: {error}.'
        if isinstance(error, KeyError):
            text += ' A transform that needs a label cannot be in the validation transforms.'
        raise UserError(text) from error
    trans_info = [(kind, (int(size[0]), int(size[1]))) for kind, size in data['trans_info']]
    return np.ascontiguousarray(data['img'], dtype=np.float32), trans_info


def displayable(image: np.ndarray) -> np.ndarray:
    """What :func:`read_image` gave as uint8 RGB ``[H, W, 3]``; of more channels the first three, of two the first."""
    bands = image[..., np.newaxis] if image.ndim == 2 else image
    bands = bands[..., 2::-1] if bands.shape[2] >= 3 else np.repeat(bands[..., :1], 3, axis=2)
    return np.ascontiguousarray(np.clip(np.rint(bands), 0, 255).astype(np.uint8))


def _in_folder(folder: Path, leave_out: str | Path | None) -> list[ImageItem]:
    left_out = Path(leave_out).resolve() if leave_out is not None else None
    items = []
    for file in sorted(folder.rglob('*')):
        relative = file.relative_to(folder)
        hidden = any(part.startswith('.') for part in relative.parts)
        if hidden or file.suffix.lower() not in IMAGE_SUFFIXES or not file.is_file():
            continue
        if left_out is None or left_out not in file.resolve().parents or left_out in folder.resolve().parents:
            items.append(ImageItem(file, relative))
    return items


def _in_list(path: Path) -> list[ImageItem]:
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: neither an image ({", ".join(IMAGE_SUFFIXES)}) nor a list file in UTF-8.') from error
    folder = path.parent
    # NOTE: a line that names a file as a whole is one image, because names may hold spaces.
    entries = [[line] if os.path.isfile(folder / line) else line.split() for line in map(str.strip, lines) if line]
    skipped = foreign_parts(folder, (image for image, *_ in entries if _is_foreign(image)))
    items = {}
    for image, *rest in entries:
        name = _own_name(folder, image, skipped)
        label = folder / _own_name(folder, rest[0], skipped) if rest else None
        items.setdefault(folder / name, ImageItem(folder / name, _below(name), label))
    return list(items.values())


def _is_foreign(name: str) -> bool:
    return os.path.isabs(name) and not os.path.isfile(name)


def _own_name(folder: Path, name: str, skipped: int) -> Path:
    """A listed path without its foreign parts where that is a file in `folder`, otherwise as it is."""
    own = Path(*Path(name).parts[1 + skipped:])  # the first part is the root of the file system
    return own if _is_foreign(name) and os.path.isfile(folder / own) else Path(name)


def _below(path: Path) -> Path:
    """A path of a list file as one that cannot leave the output folder."""
    return Path(*[part for part in path.parts if part not in ('..', path.anchor)])


def _unreadable(path: Path) -> UserError:
    return UserError(f'{path}: cannot be read as an image (corrupt, cut off, or no image). Replace it or leave it out.')


def _check_content(path: Path) -> None:
    """Refuse what OpenCV would read wrongly without a word: cut-off files and deep TIFFs; warn about transparency."""
    with path.open('rb') as stream:
        head = stream.read(1024)
        stream.seek(max(0, path.stat().st_size - 1024))
        tail = stream.read()
    jpeg, png = head.startswith(b'\xff\xd8'), head.startswith(b'\x89PNG')
    ended = b'\xff\xd9' in tail if jpeg else b'IEND' in tail if png else True
    if not ended and not _decodes(path):  # some cameras put more behind the end of a JPEG
        raise _unreadable(path)
    if head[:4] in (b'II*\0', b'MM\0*'):
        _check_depth(path, cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    if png and (head[25] in (4, 6) or b'tRNS' in head) and 'transparency' not in _WARNED:
        _WARNED.add('transparency')
        logging.getLogger('paddleseg_ext').warning(
            '%s has transparency, which is dropped, as in training (said once; other images may have it too)', path)


def _decodes(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _check_depth(path: Path, image: np.ndarray | None) -> None:
    if image is None:
        raise _unreadable(path)
    if image.dtype not in (np.uint8, np.uint16):
        raise UserError(f'{path}: its pixels are {image.dtype} (shape {list(image.shape)}); images must have 8 or 16 '
                        'bits per channel. Convert it, scaling the values to 0–255.')


def _read_bands(path: Path, channels: int) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    _check_depth(path, image)
    found = 1 if image.ndim == 2 else image.shape[2]
    if found != channels:
        raise UserError(f'{path}: it has {found} channels (shape {list(image.shape)}) and the model takes {channels}. '
                        'Convert the image, or set in_channels of the model and img_channels of the data set.')
    return image if image.dtype == np.uint8 else (image / 257.0).astype(np.float32)

"""COCO-Stuff 10k, release 1.1 (Caesar et al., arXiv 1612.03716): 9,000 training and 1,000 test pictures, 171 classes.

PaddleSeg's `CocoStuff` reads the 164k release (train2017, val2017 folders, zipped by sorted order), which fits neither
the list files nor the label files of this one. Two layouts are read:

- as released: `imageLists/{train,test}.txt` (one name a line), `images/NAME.jpg`, `annotations/NAME.mat` (matrix `S`,
  ids 0–182 of which 11 are not used);
- as mmsegmentation converts it: `images/{train2014,test2014}/NAME.jpg` and
  `annotations/{train2014,test2014}/NAME_labelTrainIds.png` (ids 0–171); the list files are not needed then.

Id 0, unlabelled, becomes 255 and the others move down by one.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from paddleseg_ext.data.class_tables import COCO_STUFF_NAMES
from paddleseg_ext.data.pairs import PairsDataset, read_list
from paddleseg_ext.data.palette import voc_palette
from paddleseg_ext.errors import UserError
from paddleseg_ext.registry import register

__all__ = ['COCOStuff10k']

LARGEST_RAW_ID = 182
# COCO's ids without pictures in this release, so 171 of 182 are classes
UNUSED_RAW_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
CONVERTED_LABEL = '_labelTrainIds.png'


@register('dataset')
class COCOStuff10k(PairsDataset):
    """COCO-Stuff 10k, 171 classes, 255 unlabelled. Modes 'val' and 'test' both read the test list.

    Arguments: see `PairsDataset`.

    Raises:
        UserError: no known layout, an unknown mode, a label file with other content.
    """

    NUM_CLASSES = len(COCO_STUFF_NAMES)
    IGNORE_INDEX = 255
    IMG_CHANNELS = 3
    CLASS_NAMES = list(COCO_STUFF_NAMES)
    CLASS_COLORS = voc_palette(len(COCO_STUFF_NAMES) + 1)[1:]
    MODES = ('train', 'val', 'test')

    def find_files(self, root: Path, mode: str) -> list[tuple[Path, Path]]:
        """Finds the layout and returns the files of a mode."""
        split = 'train' if mode == 'train' else 'test'
        listing, converted = root / 'imageLists' / f'{split}.txt', f'{split}2014'
        if (root / 'annotations' / converted).is_dir():
            images, labels, suffix = root / 'images' / converted, root / 'annotations' / converted, CONVERTED_LABEL
        elif listing.is_file():
            images, labels, suffix = root / 'images', root / 'annotations', '.mat'
        else:
            raise UserError(f'no COCO-Stuff 10k in {root}: looked for {listing} (release 1.1, with images/*.jpg and '
                            f'annotations/*.mat) and for {root / "annotations" / converted} (*{CONVERTED_LABEL}, as '
                            'mmsegmentation converts it)')
        if listing.is_file():
            names = [fields[0] for fields in read_list(listing)]
        else:
            names = sorted(file.stem for file in images.glob('*.jpg'))
        if not names:
            raise UserError(f'{images} holds no .jpg files')
        return [(images / f'{name}.jpg', labels / f'{name}{suffix}') for name in names]

    def read_label(self, path: str) -> np.ndarray:
        """Returns ids uint8 [H, W] of a .mat or .png label file."""
        if path.endswith('.mat'):
            return _ids_of_matrix(path)
        # NOTE: uint8 wraps, so unlabelled 0 becomes 255 by itself.
        return np.array(Image.open(path)).astype(np.uint8, copy=False) - np.uint8(1)


def _ids_of_raw() -> np.ndarray:
    table = np.full(LARGEST_RAW_ID + 1, 255, dtype=np.uint8)
    used = [raw for raw in range(1, LARGEST_RAW_ID + 1) if raw not in UNUSED_RAW_IDS]
    table[used] = np.arange(len(used))
    return table


IDS_OF_RAW = _ids_of_raw()


def _ids_of_matrix(path: str) -> np.ndarray:
    from scipy.io import loadmat
    content = loadmat(path, variable_names=['S'])
    if 'S' not in content:
        raise UserError(f'{path} has no matrix S with the label map; is it an annotation of COCO-Stuff 10k v1.1?')
    raw = content['S'].astype(np.int64)
    strange = [raw_id for raw_id in np.unique(raw).tolist() if raw_id > LARGEST_RAW_ID or raw_id in UNUSED_RAW_IDS]
    if strange:
        raise UserError(f'{path}: ids {strange} are none of COCO-Stuff 10k')
    return IDS_OF_RAW[raw]

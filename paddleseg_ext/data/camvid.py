"""CamVid, the Cambridge-driving Labeled Video Database (Brostow et al., 2008), in the 11 classes of the SegNet paper.

Layouts, told apart by what the folder holds:

- list files `train.txt`, `val.txt`, `test.txt` with `image label` lines. The paths are relative to the folder; those
  of the SegNet tutorial (`/SegNet/CamVid/train/x.png /SegNet/CamVid/trainannot/x.png`) are matched from their end;
- full resolution: `701_StillsRaw_full/x.png` and `LabeledApproved_full/x_L.png` (RGB labels in 32 colours). List
  files beside them may name the pictures of a split one a line; without them the split of the SegNet tutorial is made
  from the names: 367 train, 101 val, 233 test.

Labels may be ids 0–10 with 11 or 255 for unlabelled, or RGB in the 32 colours of CamVid.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from paddleseg_ext.data.image_io import foreign_parts
from paddleseg_ext.data.pairs import PairsDataset, read_list
from paddleseg_ext.errors import UserError
from paddleseg_ext.registry import register

__all__ = ['CamVid', 'CAMVID_CLASSES', 'split_of']

# class, its colour, and the colours of the 32 CamVid classes that it gathers (grouping of SegNet, arXiv 1511.00561, as
# MathWorks' SegNet example spells it out): names of the 32 in the comment, in the order of the colours
CAMVID_CLASSES = (
    # Sky
    ('sky', (128, 128, 128), ((128, 128, 128),)),
    # Building, Archway, Bridge, Tunnel, Wall
    ('building', (128, 0, 0), ((128, 0, 0), (192, 0, 128), (0, 128, 64), (64, 0, 64), (64, 192, 0))),
    # Column_Pole, TrafficCone
    ('pole', (192, 192, 128), ((192, 192, 128), (0, 0, 64))),
    # Road, LaneMkgsDriv, LaneMkgsNonDriv
    ('road', (128, 64, 128), ((128, 64, 128), (128, 0, 192), (192, 0, 64))),
    # Sidewalk, ParkingBlock, RoadShoulder
    ('pavement', (0, 0, 192), ((0, 0, 192), (64, 192, 128), (128, 128, 192))),
    # Tree, VegetationMisc
    ('tree', (128, 128, 0), ((128, 128, 0), (192, 192, 0))),
    # SignSymbol, Misc_Text, TrafficLight
    ('sign symbol', (192, 128, 128), ((192, 128, 128), (128, 128, 64), (0, 64, 64))),
    # Fence
    ('fence', (64, 64, 128), ((64, 64, 128),)),
    # Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
    ('car', (64, 0, 128), ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64))),
    # Pedestrian, Child, CartLuggagePram, Animal
    ('pedestrian', (64, 64, 0), ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64))),
    # Bicyclist, MotorcycleScooter
    ('bicyclist', (0, 128, 192), ((0, 128, 192), (192, 0, 192))),
)
VOID = (0, 0, 0)
UNLABELLED = len(CAMVID_CLASSES)  # the SegNet tutorial's id for unlabelled pixels

IMAGES_FOLDER, LABELS_FOLDER = '701_StillsRaw_full', 'LabeledApproved_full'
# the val frames of sequence 0016E5, and the last train frame of 0001TP
VAL_FRAMES, LAST_TRAIN_FRAME = range(7959, 8160), 8520


@register('dataset')
class CamVid(PairsDataset):
    """CamVid, 11 classes, 255 unlabelled. Arguments: see `PairsDataset`; modes 'train', 'val', 'test', 'trainval'.

    Raises:
        UserError: no known layout, an unknown mode, a label with colours that are not CamVid's.
    """

    NUM_CLASSES = len(CAMVID_CLASSES)
    IGNORE_INDEX = 255
    IMG_CHANNELS = 3
    CLASS_NAMES = [name for name, _, _ in CAMVID_CLASSES]
    CLASS_COLORS = [list(color) for _, color, _ in CAMVID_CLASSES]
    MODES = ('train', 'val', 'test', 'trainval')

    def find_files(self, root: Path, mode: str) -> list[tuple[Path, Path]]:
        """Finds the layout and returns the files of a mode."""
        splits = ('train', 'val') if mode == 'trainval' else (mode,)
        if (root / IMAGES_FOLDER).is_dir() and (root / LABELS_FOLDER).is_dir():
            return [pair for split in splits for pair in _full_resolution_pairs(root, split)]
        listings = [root / f'{split}.txt' for split in splits]
        missing = [str(listing) for listing in listings if not listing.is_file()]
        if missing:
            raise UserError(f'no CamVid in {root}: looked for the list file{"s" * (len(missing) > 1)} '
                            f'{", ".join(missing)} (lines `image label`, as in the SegNet tutorial), and for the '
                            f'folders {IMAGES_FOLDER} and {LABELS_FOLDER} of the full resolution')
        return [pair for listing in listings for pair in _listed_pairs(root, listing)]

    def read_label(self, path: str) -> np.ndarray:
        """Returns ids uint8 [H, W] of a label file in any of the forms that CamVid comes in."""
        label = np.array(Image.open(path))
        if label.ndim == 3:
            return _ids_of_colors(label, path)
        label = label.astype(np.uint8, copy=False)
        label[label == UNLABELLED] = self.IGNORE_INDEX
        return label


def _listed_pairs(root: Path, listing: Path) -> list[tuple[Path, Path]]:
    lines = read_list(listing)
    for number, fields in enumerate(lines, 1):
        if len(fields) != 2:
            raise UserError(f'{listing}:{number}: expected `image label`, found {len(fields)} fields')
    skipped = foreign_parts(root, [fields[0] for fields in lines])
    return [tuple(root.joinpath(*Path(path.lstrip('/')).parts[skipped:]) for path in fields) for fields in lines]


def _full_resolution_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    listing = root / f'{split}.txt'
    if listing.is_file():
        names = [Path(fields[0]).stem for fields in read_list(listing)]
    else:
        names = sorted(file.stem for file in (root / IMAGES_FOLDER).glob('*.png') if split_of(file.stem) == split)
        if not names:
            raise UserError(f'{root / IMAGES_FOLDER} has no picture of the {split} split, and there is no {listing}; '
                            'pictures are expected to be named as in CamVid, such as 0016E5_07959.png')
    return [(root / IMAGES_FOLDER / f'{name}.png', root / LABELS_FOLDER / f'{name}_L.png') for name in names]


def split_of(stem: str) -> str:
    """Returns the split ('train', 'val', 'test') of a picture of CamVid by its name, as the SegNet tutorial has it.

    0006R0 and most of 0016E5 are for training, as is the first half of 0001TP (to frame 8520); frames 7959–8159 of
    0016E5 (the stretch labelled at 15 Hz) are val; the second half of 0001TP and Seq05VD are test. An unknown name
    gives ''.
    """
    sequence, _, frame = stem.partition('_')
    digits = frame.lstrip('f')
    if not digits.isdigit():
        return ''
    if sequence == '0016E5':
        return 'val' if int(digits) in VAL_FRAMES else 'train'
    if sequence == '0001TP':
        return 'train' if int(digits) <= LAST_TRAIN_FRAME else 'test'
    return {'0006R0': 'train', 'Seq05VD': 'test'}.get(sequence, '')


def _color_table() -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted colour codes (0xRRGGBB) of the 32 classes and the id of each."""
    rows = [(_code(*VOID), 255)]
    rows += [(_code(*color), class_id) for class_id, (_, _, colors) in enumerate(CAMVID_CLASSES) for color in colors]
    codes, ids = zip(*sorted(rows))
    return np.array(codes), np.array(ids, dtype=np.uint8)


def _code(red, green, blue):
    return red * 65536 + green * 256 + blue


COLOR_CODES, COLOR_IDS = _color_table()


def _ids_of_colors(label: np.ndarray, path: str) -> np.ndarray:
    codes = _code(*(label[..., channel].astype(np.int64) for channel in range(3)))
    places = np.minimum(np.searchsorted(COLOR_CODES, codes), len(COLOR_CODES) - 1)
    foreign = COLOR_CODES[places] != codes
    if foreign.any():
        color = tuple(int(value) for value in label[foreign][0, :3])
        raise UserError(f'{path}: the colour {color} is none of CamVid\'s 32 ({int(foreign.sum())} such pixels); '
                        'labels must be stored without loss and resized with nearest neighbour')
    return COLOR_IDS[places]

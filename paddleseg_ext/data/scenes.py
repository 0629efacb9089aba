"""The data set class of the synthetic street scenes that `paddleseg data synth` writes."""
from __future__ import annotations

from pathlib import Path

from paddleseg_ext.data.pairs import PairsDataset, read_list
from paddleseg_ext.data.synth_classes import SCENE_CLASS_COLORS, SCENE_CLASS_NAMES
from paddleseg_ext.errors import UserError
from paddleseg_ext.registry import register

__all__ = ['SyntheticScenes']


@register('dataset')
class SyntheticScenes(PairsDataset):
    """Synthetic street scenes, 9 classes, no ignored pixels. Arguments: see `PairsDataset`; modes 'train' and 'val'."""

    NUM_CLASSES = len(SCENE_CLASS_NAMES)
    IGNORE_INDEX = 255
    IMG_CHANNELS = 3
    CLASS_NAMES = SCENE_CLASS_NAMES
    CLASS_COLORS = SCENE_CLASS_COLORS
    MODES = ('train', 'val')

    def find_files(self, root: Path, mode: str) -> list[tuple[Path, Path]]:
        """Reads `<root>/<mode>.txt`."""
        listing = root / f'{mode}.txt'
        if not listing.is_file():
            raise UserError(f'there are no synthetic scenes in {root} ({listing} is missing); write them with: '
                            f'paddleseg data synth --save_dir {root}')
        pairs = read_list(listing)
        for number, fields in enumerate(pairs, 1):
            if len(fields) != 2:
                raise UserError(f'{listing}:{number}: expected `image label`, found {len(fields)} fields')
        return [(root / image, root / label) for image, label in pairs]

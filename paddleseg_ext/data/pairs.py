"""What our data set classes share: a list of (image, label) files and PaddleSeg's way of handing them out."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import paddleseg.transforms.functional as functional
from paddleseg.datasets import Dataset
from paddleseg.transforms import Compose
from PIL import Image

from paddleseg_ext.errors import UserError

__all__ = ['PairsDataset', 'read_list']


class PairsDataset(Dataset):
    """Abstract: a data set of image and label files.

    Subclasses give NUM_CLASSES, IGNORE_INDEX, IMG_CHANNELS, CLASS_NAMES, CLASS_COLORS and MODES, and say where the
    files are.

    Items are PaddleSeg's: training modes give {'img' [3, H, W], 'label' [H, W]} with both transformed; evaluation modes
    leave the label as it is on disk, [1, H, W].

    Args:
        transforms: transform objects.
        dataset_root: folder of the data.
        mode: one of MODES.
        edge: whether training items carry a map of class borders under 'edge'.

    Raises:
        UserError: an unknown mode, or files that are not where the layout has them.
    """

    MODES = ('train', 'val')
    EVALUATION_MODES = ('val', 'test')

    def __init__(self, transforms: list, dataset_root: str, mode: str = 'train', edge: bool = False) -> None:
        mode = str(mode).lower()
        if mode not in self.MODES:
            raise UserError(f'{type(self).__name__} has no mode {mode!r}; choose one of {", ".join(self.MODES)}')
        self.dataset_root = str(dataset_root)
        self.transforms = Compose(transforms, img_channels=self.IMG_CHANNELS)
        self.mode = mode
        self.num_classes = self.NUM_CLASSES
        self.img_channels = self.IMG_CHANNELS
        self.ignore_index = self.IGNORE_INDEX
        self.edge = edge
        self.file_list = [[str(image), str(label)] for image, label in self.find_files(Path(dataset_root), mode)]

    def find_files(self, root: Path, mode: str) -> list[tuple[Path, Path]]:
        """Returns the (image, label) files of one mode."""
        raise NotImplementedError

    def read_label(self, path: str) -> np.ndarray:
        """Returns the label map uint8 [H, W] with ids 0…NUM_CLASSES-1 and IGNORE_INDEX."""
        return np.array(Image.open(path))

    def __getitem__(self, index: int) -> dict:
        """Returns one item as described at the class."""
        image, label = self.file_list[index]
        data = {'img': image, 'trans_info': [], 'gt_fields': []}
        label = self.read_label(label)
        if self.mode in self.EVALUATION_MODES:
            data = self.transforms(data)
            data['label'] = label[np.newaxis]
            return data
        data['label'] = label
        data['gt_fields'].append('label')
        data = self.transforms(data)
        if self.edge:
            data['edge'] = functional.mask_to_binary_edge(data['label'], radius=2, num_classes=self.num_classes)
        return data


def read_list(path: Path) -> list[list[str]]:
    """Returns the fields of each non-empty line of a list file.

    Raises:
        UserError: the file has no lines, or is not text.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding='utf-8').splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is not a text file: {error}') from error
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f'{path} is empty: it should have one `image label` pair a line')
    return lines

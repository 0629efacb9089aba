"""Transforms of PaddleSeg 2.8.0 that do something else than their documentation says."""
from __future__ import annotations

from paddleseg_ext.compat.faults import Fault

__all__ = ['FAULTS']


def _balanced_crop(before):
    """Crop image and labels at one place, where (if one is found) no class fills more than the ratio."""
    import numpy as np
    from paddleseg.transforms import functional

    def _too_uniform(self, label):
        classes, pixels = np.unique(label, return_counts=True)
        pixels = pixels[classes != self.ignore_index]
        return len(pixels) < 2 or pixels.max() / pixels.sum() >= self.category_max_ratio

    def __call__(self, data):
        if self.category_max_ratio >= 1.0:
            return before(self, data)
        if data['img'].shape[:2] == self.crop_size:
            return data
        data = self._padding(data)
        size = data['img'].shape[:2]
        place = self._get_crop_coordinates(size)
        for _ in range(self.loop_times):
            if not _too_uniform(self, functional.crop(data['label'], place)):
                break
            place = self._get_crop_coordinates(size)
        for key in ('img', *data.get('gt_fields', [])):
            data[key] = functional.crop(data[key], place)
        return data

    return __call__


FAULTS = (
    Fault('paddleseg.transforms.transforms:RandomPaddingCrop.__call__',
          'category_max_ratio < 1 puts the label crop into the image, or leaves the image uncropped',
          _balanced_crop, since=(0, 0)),
)

"""Augmentation as mmsegmentation does it, under names of our own: rescaling, crops without a dominant class, colours.

Images are arrays [height, width, channels] of 0 to 255, RGB where there are three channels; labels are
[height, width]. Sizes are given as (width, height). All randomness is drawn from NumPy's global generator, which the
training loop seeds for every sample. Facts: mmsegmentation 1.2.2 (RandomCrop, PhotoMetricDistortion) and mmcv
(RandomResize, rescale_size). What mmsegmentation pads in its preprocessor is PaddleSeg's `Padding` after `Normalize`.
"""
from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from paddleseg_ext.errors import UserError
from paddleseg_ext.registry import register

__all__ = ['PhotometricDistortion', 'RandomClassBalancedCrop', 'RandomRescale']

# Hues of OpenCV's 8-bit HSV: half degrees.
HUES = 180


@register('transform')
class RandomRescale:
    """Resize to a random multiple of what fits into `size`, keeping the ratio of the sides.

    With a factor drawn uniformly, the image becomes as large as it can while its long side is at most the long side of
    `size` times the factor, and its short side likewise: 0.5 to 2 of (2048, 512) gives short sides of 256 to 1024
    pixels unless the image is longer than 4:1. Labels take the nearest pixel, images are interpolated linearly.

    Args:
        size: two whole numbers above 0; which of them is the width makes no difference.
        min_factor: smallest factor, above 0.
        max_factor: largest factor, at least min_factor.

    Raises:
        UserError: a value outside these ranges.
    """

    def __init__(self, *, size: Sequence[int] = (2048, 512), min_factor: float = 0.5, max_factor: float = 2.0):
        self.size = _size(size, 'RandomRescale: size')
        if not 0 < min_factor <= max_factor:
            raise UserError(f'RandomRescale: min_factor {min_factor} and max_factor {max_factor}: must be above 0, and '
                            'min_factor no larger than max_factor.')
        self.min_factor, self.max_factor = min_factor, max_factor

    def __call__(self, data: dict) -> dict:
        factor = np.random.uniform(self.min_factor, self.max_factor)
        height, width = data['img'].shape[:2]
        target = _fitted((width, height), [int(side * factor) for side in self.size])
        data['img'] = cv2.resize(data['img'], target, interpolation=cv2.INTER_LINEAR)
        for key in data.get('gt_fields', []):
            data[key] = cv2.resize(data[key], target, interpolation=cv2.INTER_NEAREST)
        return data


def _fitted(size: tuple[int, int], bounds: Sequence[int]) -> tuple[int, int]:
    """(width, height) scaled so that the long side fits the larger bound and the short side the smaller one."""
    scale = min(max(bounds) / max(size), min(bounds) / min(size))
    return tuple(max(int(side * scale + 0.5), 1) for side in size)


@register('transform')
class RandomClassBalancedCrop:
    """Crop image and labels at one random place, where no class fills more than a share of the labelled pixels.

    A place counts as balanced where at least two classes are seen and the most frequent one fills less than
    `max_class_ratio`. After `tries` places that are not, the next one is taken as it is. Nothing is padded: of an image
    smaller than the crop, all of it stays, so `Padding` has to follow before images are put into a batch.

    Args:
        crop_size: width and height in pixels, at least 1.
        max_class_ratio: above 0; 1 and more takes the first place.
        ignore_index: label, or labels, that are no class.
        tries: places that are looked at, at least 1.

    Raises:
        UserError: a value outside these ranges.
    """

    def __init__(self, *, crop_size: Sequence[int] = (512, 512), max_class_ratio: float = 0.75,
                 ignore_index: int | list[int] = 255, tries: int = 10):
        self.crop_size = _size(crop_size, 'RandomClassBalancedCrop: crop_size')
        if not max_class_ratio > 0:
            raise UserError(f'RandomClassBalancedCrop: max_class_ratio {max_class_ratio}: must be above 0; 1 switches '
                            'the balancing off.')
        if tries < 1:
            raise UserError(f'RandomClassBalancedCrop: tries {tries}: must be at least 1.')
        self.max_class_ratio, self.tries = max_class_ratio, tries
        self.ignored = np.atleast_1d(ignore_index)

    def __call__(self, data: dict) -> dict:
        place = self._place(data['img'].shape)
        if self.max_class_ratio < 1 and 'label' in data.get('gt_fields', []):
            for _ in range(self.tries):
                if self._balanced(data['label'][place]):
                    break
                place = self._place(data['img'].shape)
        for key in ('img', *data.get('gt_fields', [])):
            data[key] = data[key][place]
        return data

    def _place(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Rows and columns of a random crop, all of them along a side that is shorter than the crop."""
        height, width = shape[:2]
        top, left = (np.random.randint(0, max(side - crop, 0) + 1)
                     for side, crop in zip((height, width), reversed(self.crop_size)))
        return slice(top, top + self.crop_size[1]), slice(left, left + self.crop_size[0])

    def _balanced(self, label: np.ndarray) -> bool:
        classes, pixels = np.unique(label, return_counts=True)
        pixels = pixels[~np.isin(classes, self.ignored)]
        return len(pixels) > 1 and pixels.max() / pixels.sum() < self.max_class_ratio


@register('transform')
class PhotometricDistortion:
    """Change brightness, contrast, saturation and hue of an RGB image, each with probability 1/2.

    Brightness comes first; contrast, with equal probability, next or last; saturation and hue between. Each change
    works on bytes and clips to 0 to 255, as in mmsegmentation; an image of another type is rounded first and has its
    type again afterwards.

    Args:
        brightness_delta: largest number added to or taken off every value, 0 to 255.
        contrast_range: smallest and largest factor on every value, not negative.
        saturation_range: smallest and largest factor on the saturation, not negative.
        hue_delta: whole number of OpenCV's 180 hues, 0 to 90: the shift is at least -hue_delta and below hue_delta.

    Raises:
        UserError: a value outside these ranges, or an image that has not three channels.
    """

    def __init__(self, *, brightness_delta: float = 32, contrast_range: Sequence[float] = (0.5, 1.5),
                 saturation_range: Sequence[float] = (0.5, 1.5), hue_delta: int = 18):
        if not 0 <= brightness_delta <= 255:
            raise UserError(f'PhotometricDistortion: brightness_delta {brightness_delta}: must lie in 0 to 255.')
        if int(hue_delta) != hue_delta or not 0 <= hue_delta <= HUES // 2:
            raise UserError(f'PhotometricDistortion: hue_delta {hue_delta}: must be a whole number of 0 to '
                            f'{HUES // 2}.')
        self.brightness_delta, self.hue_delta = brightness_delta, int(hue_delta)
        self.contrast_range = _factors(contrast_range, 'PhotometricDistortion: contrast_range')
        self.saturation_range = _factors(saturation_range, 'PhotometricDistortion: saturation_range')

    def __call__(self, data: dict) -> dict:
        image = data['img']
        if image.ndim != 3 or image.shape[2] != 3:
            channels = 1 if image.ndim == 2 else image.shape[2]
            raise UserError(f'PhotometricDistortion: the image has {channels} channels, but hue and saturation need '
                            'RGB images of 3; remove PhotometricDistortion from the transforms.')
        data['img'] = self._distorted(_bytes(np.rint(image))).astype(image.dtype)
        return data

    def _distorted(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB → uint8 RGB."""
        image = self._brightness(image)
        contrast_first = _coin()
        if contrast_first:
            image = self._contrast(image)
        image = self._hue(self._saturation(image))
        return image if contrast_first else self._contrast(image)

    def _brightness(self, image: np.ndarray) -> np.ndarray:
        if not _coin():
            return image
        return _bytes(image.astype('float32') + np.random.uniform(-self.brightness_delta, self.brightness_delta))

    def _contrast(self, image: np.ndarray) -> np.ndarray:
        return _bytes(image.astype('float32') * np.random.uniform(*self.contrast_range)) if _coin() else image

    def _saturation(self, image: np.ndarray) -> np.ndarray:
        if not _coin():
            return image
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = _bytes(hsv[..., 1].astype('float32') * np.random.uniform(*self.saturation_range))
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

    def _hue(self, image: np.ndarray) -> np.ndarray:
        if not _coin() or not self.hue_delta:
            return image
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        # NOTE: the upper end is left out, because the reference draws its whole numbers so.
        hsv[..., 0] = (hsv[..., 0].astype(int) + np.random.randint(-self.hue_delta, self.hue_delta)) % HUES
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _coin() -> bool:
    return bool(np.random.randint(2))


def _bytes(values: np.ndarray) -> np.ndarray:
    """Clipped to 0 to 255, fractions dropped."""
    return np.clip(values, 0, 255).astype('uint8')


def _size(value: Sequence[int], name: str) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or any(
            isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in value):
        raise UserError(f'{name} {value}: must be width and height, two whole numbers of at least 1.')
    return tuple(value)


def _factors(value: Sequence[float], name: str) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not 0 <= value[0] <= value[1]:
        raise UserError(f'{name} {value}: must be two factors, the smallest and the largest, not negative.')
    return tuple(value)

"""From a clean drawing to something like a photograph: textures, light, colour cast, lens and sensor."""
from __future__ import annotations

import cv2
import numpy as np

from paddleseg_ext.data.synth_classes import BUILDING, CAR, PAVEMENT, PERSON, POLE, ROAD, SIGN, SKY, TREE

__all__ = ['photograph']

# strength of the fine and of the blotchy texture on each class, in grey levels
TEXTURE = {SKY: (0, 2), ROAD: (6, 7), PAVEMENT: (5, 6), BUILDING: (3, 7), TREE: (10, 8), CAR: (0, 3), PERSON: (3, 4),
           POLE: (2, 2), SIGN: (1, 2)}


def photograph(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the drawing as a camera might have taken it.

    Args:
        image: uint8 [H, W, 3] RGB.
        label: uint8 [H, W]; only chooses how rough each surface looks.
    """
    picture = _textured(image.astype(np.float32), label, rng)
    picture = _graded(picture, rng)
    picture *= _vignette(label.shape, rng)[..., None]
    sharpness = rng.random()
    if sharpness < 0.25:
        picture = cv2.GaussianBlur(picture, (3, 3), float(rng.uniform(0.35, 0.8)))
    noise = rng.standard_normal((*label.shape, 3), dtype=np.float32)
    picture += noise * np.float32(rng.uniform(1.0, 4.0))
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def _textured(picture: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = label.shape
    table = np.array([TEXTURE[class_id] for class_id in sorted(TEXTURE)], dtype=np.float32)
    fine = rng.standard_normal((height, width), dtype=np.float32)
    blotches = rng.standard_normal((max(height // 6, 2), max(width // 6, 2)), dtype=np.float32)
    blotches = cv2.resize(blotches, (width, height), interpolation=cv2.INTER_LINEAR)
    texture = table[:, 0][label] * fine + table[:, 1][label] * blotches
    return picture + texture[..., None]


def _graded(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast, brightness, saturation and a colour cast, as the hour, the weather and the white balance give them."""
    gray = picture.mean(axis=2, keepdims=True)
    picture = gray + (picture - gray) * np.float32(rng.uniform(0.75, 1.2))
    warmth = rng.uniform(-0.07, 0.07)
    tint = 1.0 + np.array([warmth, rng.uniform(-0.03, 0.03), -warmth])
    gain, contrast = rng.uniform(0.90, 1.2), rng.uniform(0.84, 1.12)
    return ((picture - 118.0) * np.float32(contrast) + 118.0) * (tint * gain).astype(np.float32)


def _vignette(shape, rng: np.random.Generator) -> np.ndarray:
    down = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    return 1.0 - np.float32(rng.uniform(0.0, 0.16)) * (down * down + across * across)

"""What the synthetic scenes are drawn with: a pinhole camera, a canvas that paints image and labels together, colours.

World coordinates are metres: X to the right of the road's middle, Y up from the ground, Z away from the camera.
Canvas coordinates are sub-pixels: SUPERSAMPLING of them make one pixel in each direction.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ['SUPERSAMPLING', 'Camera', 'Canvas', 'Scene', 'offspring', 'pick', 'vary', 'PAINTS', 'WALLS']

# NOTE: odd, because then one sub-pixel lies exactly on the pixel's centre and the label needs no rounding rule.
SUPERSAMPLING = 3
FRACTION_BITS = 4  # fixed-point bits of cv2's polygon corners

# Colours are shared between classes on purpose: colour alone must not tell a car from a person, a sign or a wall.
PAINTS = np.array([
    (176, 38, 36), (30, 68, 140), (226, 226, 222), (52, 54, 58), (128, 131, 134), (206, 160, 60), (44, 96, 66),
    (150, 92, 58), (120, 150, 176), (214, 202, 176), (96, 40, 72), (232, 126, 44), (86, 110, 76), (172, 174, 178),
], dtype=np.float64)
WALLS = np.array([
    (172, 92, 70), (206, 190, 160), (150, 150, 152), (120, 78, 62), (222, 216, 206), (134, 152, 168), (104, 120, 96),
    (190, 148, 100), (96, 98, 104), (196, 128, 116), (160, 170, 140), (228, 196, 132), (70, 88, 112), (184, 60, 50),
], dtype=np.float64)


def offspring(rng: np.random.Generator) -> np.random.Generator:
    """Returns a generator of its own for one thing, so that how often it draws does not move what comes after it."""
    return np.random.default_rng(int(rng.integers(2 ** 63)))


def pick(rng: np.random.Generator, colors: np.ndarray, spread: float = 14.0) -> np.ndarray:
    """Returns one row of `colors` [n, 3], its channels moved together and apart by up to `spread`; float64 [3]."""
    return vary(rng, colors[int(rng.integers(len(colors)))], spread)


def vary(rng: np.random.Generator, color, spread: float) -> np.ndarray:
    """Returns `color` with a common shift of up to ±`spread` and one of half that per channel; float64 [3]."""
    common, red, green, blue = ((rng.random(4) - 0.5) * spread).tolist()
    return np.array([color[0] + 2 * common + red, color[1] + 2 * common + green, color[2] + 2 * common + blue])


class Camera:
    """A pinhole camera looking down the street.

    Args:
        width, height: picture size in pixels.
        rng: source of the pose (focal length, height above the road, horizon, roll, bend of the road).
        offset: lateral position of the camera in metres.
    """

    def __init__(self, width: int, height: int, rng: np.random.Generator, *, offset: float) -> None:
        size = math.sqrt(width * height / 1.5)
        self.focal = size * rng.uniform(0.86, 1.04) * SUPERSAMPLING
        self.elevation = rng.uniform(1.6, 2.5)
        self.horizon = height * rng.uniform(0.40, 0.50) * SUPERSAMPLING
        self.center = width * (0.5 + rng.uniform(-0.06, 0.06)) * SUPERSAMPLING
        self.offset = offset
        self.bend = rng.uniform(-1.0, 1.0) * 0.0022 * (rng.random() < 0.6)
        roll = rng.normal(0.0, 0.012)
        self.origin = complex(self.center, self.horizon)
        self.rotor = self.focal * complex(math.cos(roll), math.sin(roll))

    def project(self, x, y, z) -> np.ndarray:
        """Projects world points; x, y, z broadcast to [...], the result is canvas points [..., 2]."""
        # NOTE: complex numbers, because right + i·down turns the picture plane by one product; this is the inner loop.
        z = np.asarray(z, dtype=np.float64)
        points = (np.subtract(x, self.offset) + 1j * np.subtract(self.elevation, y)) / z
        if self.bend:
            points = points + self.bend * z
        return (self.origin + self.rotor * points)[..., None].view(np.float64)

    def view_edges(self, z: float, width: int) -> tuple[float, float]:
        """Returns the lateral positions in metres that the picture's left and right edges show at depth z."""
        shift = self.offset - self.bend * z * z
        return (-self.center / self.focal * z + shift,
                (width * SUPERSAMPLING - self.center) / self.focal * z + shift)


class Canvas:
    """An RGB image and its label map, painted together at SUPERSAMPLING times the size."""

    def __init__(self, width: int, height: int) -> None:
        shape = (height * SUPERSAMPLING, width * SUPERSAMPLING)
        self.image = np.zeros((*shape, 3), dtype=np.uint8)
        self.label = np.zeros(shape, dtype=np.uint8)

    def polygons(self, corners, color, label: int) -> None:
        """Fills polygons [n, corners, 2] that do not overlap each other with one colour and one label."""
        corners = list(_fixed_point(corners))
        if corners:
            cv2.fillPoly(self.image, corners, _rgb(color), shift=FRACTION_BITS)
            cv2.fillPoly(self.label, corners, int(label), shift=FRACTION_BITS)

    def polygon(self, corners, color, label: int) -> None:
        """Fills one polygon [corners, 2]."""
        self.polygons(np.asarray(corners)[None], color, label)

    def ellipse(self, center, radii, color, label: int, *, angle: float = 0.0) -> None:
        """Fills an ellipse; `center` and `radii` (x, y) in sub-pixels, `angle` in degrees."""
        turn = np.linspace(0.0, 2.0 * np.pi, 20, endpoint=False)
        x, y = radii[0] * np.cos(turn), radii[1] * np.sin(turn)
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        self.polygon(np.stack([center[0] + x * cosine - y * sine, center[1] + x * sine + y * cosine], axis=-1),
                     color, label)

    def circles(self, centers, radii, colors, label: int) -> None:
        """Fills circles: centers [n, 2] and radii [n] in sub-pixels, colors [n, 3]; later ones lie on top."""
        scale = 1 << FRACTION_BITS
        centers = np.round(np.asarray(centers) * scale).astype(np.int64)
        radii = np.maximum(np.round(np.asarray(radii) * scale).astype(np.int64), 1)
        colors = np.clip(colors, 0, 255).astype(int).tolist()
        for center, radius, color in zip(centers.tolist(), radii.tolist(), colors):
            cv2.circle(self.image, center, radius, color, cv2.FILLED, cv2.LINE_8, FRACTION_BITS)
            cv2.circle(self.label, center, radius, int(label), cv2.FILLED, cv2.LINE_8, FRACTION_BITS)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the image (mean of each pixel's sub-pixels) and the label (of its central one), uint8 [H, W(, 3)]."""
        height, width = (side // SUPERSAMPLING for side in self.label.shape)
        middle = SUPERSAMPLING // 2
        image = cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA)
        label = self.label[middle::SUPERSAMPLING, middle::SUPERSAMPLING]
        return image.reshape(height, width, 3), np.ascontiguousarray(label)


@dataclass
class Scene:
    """What all painters of one scene share: camera, canvas, street layout in metres, and light."""

    camera: Camera
    canvas: Canvas
    width: int
    height: int
    road_half: float       # half the width of the road
    pavement: float        # width of the pavement on either side
    sun_side: int          # -1 the sun stands on the left, 1 on the right
    sunlight: float        # 0 overcast … 1 hard light
    haze: np.ndarray       # colour that far things fade to
    haze_distance: float   # metres after which 63 % of a colour has faded

    def lit(self, color, z: float, factor: float = 1.0) -> np.ndarray:
        """Returns `color` under `factor` of light, faded into the haze by the distance z in metres; float64 [3]."""
        fade = math.exp(-z / self.haze_distance)
        return np.asarray(color) * factor * fade + self.haze * (1.0 - fade)

    def facing(self, side: int) -> float:
        """Returns the light factor of a surface that faces the viewer's left (-1) or right (1)."""
        return 1.0 + 0.22 * self.sunlight * (1 if side == self.sun_side else -1)


def _fixed_point(points) -> np.ndarray:
    return np.rint(np.asarray(points) * float(1 << FRACTION_BITS)).astype(np.int32)


def _rgb(color: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = color.tolist()
    return min(max(int(red), 0), 255), min(max(int(green), 0), 255), min(max(int(blue), 0), 255)

"""What stands and moves in the street: trees, cars, people, poles and signs. Each function paints one of them."""
from __future__ import annotations

import numpy as np

from paddleseg_ext.data.synth_canvas import PAINTS, Scene, pick, vary
from paddleseg_ext.data.synth_classes import CAR, PERSON, POLE, SIGN, TREE

__all__ = ['paint_tree', 'paint_hedge', 'paint_car', 'paint_person', 'paint_pole', 'paint_sign']

LEAVES = np.array([(66, 96, 46), (92, 120, 58), (116, 122, 52), (150, 108, 50), (158, 78, 44), (58, 78, 62),
                   (134, 134, 92), (104, 92, 74), (196, 156, 70)], dtype=np.float64)
BARKS = np.array([(86, 68, 54), (110, 98, 86), (64, 58, 54)], dtype=np.float64)
SKINS = np.array([(236, 196, 168), (206, 156, 122), (150, 104, 76), (96, 66, 50)], dtype=np.float64)
METALS = np.array([(92, 96, 100), (138, 142, 146), (58, 66, 60), (70, 58, 50), (186, 188, 188), (150, 110, 84)],
                  dtype=np.float64)
DARK = np.array([34.0, 34.0, 38.0])


def _upright(scene: Scene, x: float, z: float):
    """Returns place(u, v): canvas points of a flat figure at x, z; u metres to the right of x, v metres up."""
    return lambda u, v: scene.camera.project(x + np.asarray(u, dtype=np.float64), v, z)


def _metre(scene: Scene, z: float) -> float:
    return scene.camera.focal / z


def paint_tree(scene: Scene, rng: np.random.Generator, x: float, z: float) -> None:
    """A trunk with a crown of leaf clumps, round or tall."""
    height, tall = rng.uniform(5.0, 9.0), rng.random() < 0.25
    trunk_top, half = height * (0.15 if tall else 0.3), rng.uniform(0.16, 0.26)
    place = _upright(scene, x, z)
    bark = vary(rng, BARKS[int(rng.integers(len(BARKS)))], 12)
    trunk = place([-half * 1.5, -half, half, half * 1.5], [0, height * 0.55, height * 0.55, 0])
    scene.canvas.polygon(trunk, scene.lit(bark, z), TREE)
    edge = place(np.array([0.2, 0.2, 1.5, 1.0]) * half * scene.sun_side, [0, height * .55, height * .55, 0])
    scene.canvas.polygon(edge, scene.lit(bark, z, 1.0 + 0.3 * scene.sunlight), TREE)
    spread = (0.2 if tall else rng.uniform(0.34, 0.44)) * height
    _paint_leaves(scene, rng, (x, z), (trunk_top, height), spread)


def _paint_leaves(scene, rng, spot, span, spread: float) -> None:
    """A crown between two heights `span`, `spread` metres to either side; dark clumps behind, light ones on the sun."""
    x, z = spot
    middle, half = (span[0] + span[1]) / 2, (span[1] - span[0]) / 2
    count = int(np.clip(_metre(scene, z) * 0.7, 24, 80))
    turn, radius = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count)) * 0.85
    u, v = radius * np.cos(turn), radius * np.sin(turn)
    light = 0.82 + 0.16 * v + scene.sunlight * 0.16 * u * scene.sun_side + rng.normal(0, 0.07, count)
    order = np.argsort(light)
    leaf = pick(rng, LEAVES, 16)
    factor = np.clip(0.30 + light * 0.76, 0.3, 1.3)[order]
    colors = scene.lit(leaf * factor[:, None], z)
    centers = scene.camera.project(x + u[order] * spread, middle + v[order] * half, z)
    radii = rng.uniform(0.20, 0.34, count) * min(spread, half) * _metre(scene, z)
    scene.canvas.circles(centers, radii, colors, TREE)
    speckles = count if count > 24 else 0
    turn, radius = rng.uniform(0, 2 * np.pi, speckles), np.sqrt(rng.random(speckles)) * 0.95
    u, v = radius * np.cos(turn), radius * np.sin(turn)
    centers = scene.camera.project(x + u * spread, middle + v * half, z)
    radii = rng.uniform(0.04, 0.09, speckles) * min(spread, half) * _metre(scene, z)
    tone = np.where(rng.random(speckles) < 0.5, 0.66, 1.16) + 0.12 * v + scene.sunlight * 0.1 * u * scene.sun_side
    scene.canvas.circles(centers, radii, scene.lit(leaf * tone[:, None], z), TREE)


def paint_hedge(scene: Scene, rng: np.random.Generator, x: float, z: float) -> None:
    """A bush on the ground."""
    width, height = rng.uniform(0.8, 1.8), rng.uniform(1.0, 2.2)
    _paint_leaves(scene, rng, (x, z), (0.1, height), width)


def paint_car(scene: Scene, rng: np.random.Generator, x: float, z: float, *, oncoming: bool) -> None:
    """A car whose nearest end stands at depth z, in the road's direction; tail or face towards the camera."""
    body = pick(rng, PAINTS, 18)
    long, half = rng.uniform(3.7, 4.8), rng.uniform(0.84, 0.98)
    kind = rng.random()
    roof = 1.42 if kind < 0.6 else 1.75 if kind < 0.85 else 2.2
    waist = 0.92 if kind < 0.85 else 1.15
    front, back = (0.9, 0.25) if kind < 0.6 else (0.8, 0.1) if kind < 0.85 else (0.5, 0.05)
    if oncoming:
        front, back = back, front
    side = 1 if scene.camera.offset - scene.camera.bend * z * z > x else -1  # which flank the camera sees
    profile = [(0.0, waist), (back, roof), (long - front - 0.4, roof), (long - front + 0.5, waist)]
    car = _Car(scene, x, z, half, side)
    car.flank(body, profile, long)
    across = np.array([-.84, .84, .84, -.84]) * half
    along = np.array([back, back, long - front - 0.4, long - front - 0.4])
    scene.canvas.polygon(scene.camera.project(x + across, roof, z + along), scene.lit(body, z, 1.12), CAR)
    car.end(body, waist, roof, back, rng, oncoming=oncoming)


class _Car:
    """The two visible sides of a car: the flank towards the middle of the picture and the near end."""

    def __init__(self, scene: Scene, x: float, z: float, half: float, side: int) -> None:
        self.scene, self.x, self.z, self.half, self.side = scene, x, z, half, side

    def _side_points(self, outline, inset=0.0) -> np.ndarray:
        depth, up = np.asarray(outline, dtype=np.float64).T
        return self.scene.camera.project(self.x + self.side * (self.half - inset), up, self.z + depth)

    def flank(self, body: np.ndarray, profile, long: float) -> None:
        """Paints body, window band and wheels of the visible flank."""
        scene, light = self.scene, self.scene.facing(self.side)
        waist = profile[0][1]
        shell = [(0.0, 0.28), (0.0, waist), (long, waist * 0.86), (long, 0.28)]
        scene.canvas.polygon(self._side_points(shell), scene.lit(body, self.z, light), CAR)
        scene.canvas.polygon(self._side_points(profile, np.array([0.0, 0.14, 0.14, 0.0])),
                             scene.lit(body, self.z, light * 0.96), CAR)
        (a, b, c, d), drop = profile, 0.1
        for start, stop in ((0.10, 0.47), (0.52, 0.92)):
            low = [a[0] + (d[0] - a[0]) * part for part in (start, stop)]
            high = [b[0] + (c[0] - b[0]) * part for part in (start, stop)]
            pane = [(low[0], waist + 0.03), (high[0], b[1] - drop), (high[1], b[1] - drop), (low[1], waist + 0.03)]
            scene.canvas.polygon(self._side_points(pane, np.array([0.0, 0.12, 0.12, 0.0])),
                                 scene.lit(DARK + 22, self.z, light), CAR)
        turn = np.linspace(0, 2 * np.pi, 18, endpoint=False)
        for center in (0.75, long - 0.85):
            for radius, color in ((0.34, DARK), (0.19, DARK + 110)):
                rim = np.stack([center + radius * np.cos(turn), 0.34 + radius * np.sin(turn)], axis=-1)
                scene.canvas.polygon(self._side_points(rim), scene.lit(color, self.z), CAR)

    def end(self, body, waist: float, roof: float, slope: float, rng, *, oncoming: bool) -> None:
        """Paints the near end: tyres, body, bumper, window, lights, number plate."""
        scene, half, z = self.scene, self.half, self.z

        def paint(across, upward, color, depth=0.0):
            corners = scene.camera.project(self.x + np.asarray(across) * half, upward, z + np.asarray(depth))
            scene.canvas.polygon(corners, color, CAR)

        for sign in (-1, 1):
            paint(np.array([0.98, 0.98, 0.72, 0.72]) * sign, [0, .4, .4, 0], scene.lit(DARK, z))
        cabin = [0.0, slope, slope, 0.0]
        paint([-.98, -.84, .84, .98], [waist, roof, roof, waist], scene.lit(body, z, 0.98), cabin)
        glass = vary(rng, (70, 84, 98) if rng.random() < 0.6 else (36, 40, 46), 12)
        paint([-.84, -.74, .74, .84], [waist + .06, roof - .1, roof - .1, waist + .06], scene.lit(glass, z), cabin)
        paint([-.60, -.45, -.1, -.3], [waist + .06, roof - .1, roof - .1, waist + .06], scene.lit(glass + 34, z), cabin)
        paint([-.94, -1, -.97, .97, 1, .94], [.24, .5, waist, waist, .5, .24], scene.lit(body, z, 0.9))
        paint([-.96, -1, 1, .96], [.24, .42, .42, .24], scene.lit(body, z, 0.66))
        lamp = (246, 240, 214) if oncoming else (190, 34, 30)
        for sign in (-1, 1):
            paint(np.array([.94, .94, .62, .66]) * sign, [waist * .66, waist * .84, waist * .84, waist * .66],
                  scene.lit(lamp, z))
        if oncoming:
            paint([-.5, -.52, .52, .5], [waist * .55, waist * .8, waist * .8, waist * .55], scene.lit(DARK + 20, z))
        paint([-.28, -.28, .28, .28], [.44, .56, .56, .44], scene.lit((220, 218, 205), z))


def paint_person(scene: Scene, rng: np.random.Generator, x: float, z: float) -> None:
    """Someone standing or walking, with head, arms, legs and sometimes a bag."""
    size = rng.uniform(0.96, 1.14)
    flat = _upright(scene, x, z)
    shirt, trousers = pick(rng, PAINTS, 16), pick(rng, PAINTS, 16) * rng.uniform(0.5, 1.0)
    skin, hair = pick(rng, SKINS, 10), vary(rng, (60, 46, 38), 30)
    stride, turn = rng.uniform(0.04, 0.30), rng.choice([-1, 1])

    def paint(across, upward, color, factor=1.0):
        scene.canvas.polygon(flat(np.asarray(across) * size * turn, np.asarray(upward) * size),
                             scene.lit(color, z, factor), PERSON)

    for way, factor in ((-1, 0.82), (1, 1.0)):
        foot = way * stride
        paint([-.13 + .04 * way, .13 + .04 * way, foot + .08, foot - .09], [.9, .9, .06, .06], trousers, factor)
        paint([foot - .09, foot + .17, foot + .17, foot - .09], [0, 0, .08, .10], DARK)
    skirt = rng.random() < 0.3
    if skirt:
        paint([-.19, .19, .27, -.27], [1.0, 1.0, .52, .52], shirt * 0.8)
    paint([-.25, -.36 - stride * .4, -.26 - stride * .4, -.17], [1.40, .88, .85, 1.36], shirt, 0.85)
    paint([-.21, -.27, -.16, .16, .27, .21], [.86, 1.38, 1.48, 1.48, 1.38, .86], shirt)
    paint([.02, .27, .21, .02], [1.48, 1.38, .86, .86], shirt, 1.0 + 0.15 * turn * scene.sun_side * scene.sunlight)
    paint([.25, .36 + stride * .4, .26 + stride * .4, .17], [1.40, .88, .85, 1.36], shirt, 0.92)
    paint([.36 + stride * .4, .35 + stride * .4, .26 + stride * .4], [.9, .80, .84], skin)
    if rng.random() < 0.3:
        paint([-.24, -.42, -.42, -.22], [1.36, 1.32, .98, .94], pick(rng, PAINTS))
    metre = _metre(scene, z) * size
    scene.canvas.ellipse(flat(0.0, 1.67 * size), (0.135 * metre, 0.165 * metre), scene.lit(hair, z), PERSON)
    scene.canvas.ellipse(flat(0.025 * turn, 1.635 * size), (0.105 * metre, 0.13 * metre), scene.lit(skin, z), PERSON)


def paint_pole(scene: Scene, rng: np.random.Generator, x: float, z: float) -> None:
    """A street lamp, a traffic light or a plain mast."""
    metal = pick(rng, METALS, 14)
    half, height = rng.uniform(0.15, 0.20), rng.uniform(5.0, 8.5)
    kind = rng.random()
    if kind > 0.6:
        height = rng.uniform(3.2, 4.4)
    _paint_mast(scene, x, z, half, height, metal)
    flat = _upright(scene, x, z)
    inward = -1 if x > 0 else 1
    if kind < 0.6:
        arm = np.array([0, 1.5, 1.5, 0]) * inward
        scene.canvas.polygon(flat(arm, height + np.array([-.14, .10, .30, .10])), scene.lit(metal, z), POLE)
        lamp = np.array([1.0, 1.9, 1.8, 1.0]) * inward
        scene.canvas.polygon(flat(lamp, height + np.array([-.02, -.02, .30, .30])), scene.lit(metal * 0.8, z), POLE)
    elif kind < 0.85:
        box = np.array([-.26, .26, .26, -.26])
        scene.canvas.polygon(flat(box, height + np.array([-1.25, -1.25, 0, 0])), scene.lit(DARK, z), POLE)
        glowing, metre = int(rng.integers(3)), _metre(scene, z)
        for row, color in enumerate(((60, 200, 110), (236, 176, 60), (224, 54, 44))):
            factor = 1.0 if row == glowing else 0.35
            scene.canvas.ellipse(flat(0.0, height - 1.04 + 0.40 * row), (0.15 * metre, 0.15 * metre),
                                 scene.lit(color, z, factor), POLE)


def _paint_mast(scene: Scene, x: float, z: float, half: float, height: float, metal) -> None:
    flat = _upright(scene, x, z)
    outline = flat([-half * 1.2, -half * .8, half * .8, half * 1.2], [0, height, height, 0])
    scene.canvas.polygon(outline, scene.lit(metal, z, 0.9), POLE)
    shine = np.array([.25, .2, .7, 1.0]) * half * scene.sun_side
    scene.canvas.polygon(flat(shine, [0, height, height, 0]), scene.lit(metal, z, 1.0 + .35 * scene.sunlight), POLE)
    foot = np.array([-1.6, 1.6, 1.6, -1.6]) * half
    scene.canvas.polygon(flat(foot, [0, 0, .35, .35]), scene.lit(metal, z, .75), POLE)


def paint_sign(scene: Scene, rng: np.random.Generator, x: float, z: float) -> None:
    """A traffic sign on a mast: round, triangular, eight-sided, square or a wide direction board."""
    shape = int(rng.integers(5))
    height = rng.uniform(2.5, 3.2)
    _paint_mast(scene, x, z, rng.uniform(0.11, 0.14), height, pick(rng, METALS, 14))
    rim, face = pick(rng, PAINTS, 16), pick(rng, PAINTS, 16)
    if np.abs(rim - face).mean() < 40:
        face = 255 - rim * 0.8
    radius = rng.uniform(0.58, 0.76)
    sides, turned = ((24, 0.0), (3, np.pi / 2), (8, np.pi / 8), (4, np.pi / 4), (4, np.pi / 4))[shape]
    wide = 1.7 if shape == 4 else 1.0
    angle = turned + np.linspace(0, 2 * np.pi, sides, endpoint=False)
    flat = _upright(scene, x, z)
    for scale, color in ((1.0, rim), (0.76, face)):
        scene.canvas.polygon(flat(radius * scale * wide * np.cos(angle), height + radius * scale * np.sin(angle)),
                             scene.lit(color, z), SIGN)
    glyph = np.array([-.34, .34, .34, -.34]) * radius * wide, np.array([-.1, -.1, .1, .1]) * radius
    if rng.random() < 0.5:
        glyph = np.array([-.1, .1, .1, -.1]) * radius, np.array([-.36, -.36, .3, .3]) * radius
    scene.canvas.polygon(flat(glyph[0], height + glyph[1]), scene.lit(rim * 0.9, z), SIGN)

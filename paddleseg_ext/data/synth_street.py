"""The street itself: sky, ground, road with markings, pavements, shadows on the ground, and buildings."""
from __future__ import annotations

import cv2
import numpy as np

from paddleseg_ext.data.synth_canvas import SUPERSAMPLING, WALLS, Scene, pick, vary
from paddleseg_ext.data.synth_classes import BUILDING, PAVEMENT, ROAD, SKY, TREE

__all__ = ['NEAR', 'FAR', 'paint_sky', 'paint_backdrop', 'paint_ground', 'paint_shadows', 'building_row']

NEAR, FAR = 1.6, 160.0  # metres
DEPTHS = np.geomspace(NEAR, FAR, 18)  # where curves along the road are sampled

# (zenith, horizon, cloud) colours: clear, hazy, overcast, white, evening, dusk
SKIES = np.array([
    ((70, 122, 196), (178, 206, 230), (246, 246, 246)), ((120, 158, 200), (214, 218, 216), (238, 236, 232)),
    ((134, 140, 150), (186, 188, 190), (162, 166, 172)), ((206, 208, 210), (230, 228, 224), (188, 190, 194)),
    ((104, 116, 160), (240, 184, 130), (232, 150, 120)), ((64, 74, 112), (176, 146, 150), (112, 104, 128)),
], dtype=np.float64)
ASPHALTS = np.array([(92, 94, 98), (116, 116, 114), (140, 138, 134), (104, 98, 92), (92, 102, 116), (150, 140, 130)])
SLABS = np.array([(168, 164, 156), (150, 142, 138), (186, 170, 148), (134, 138, 142), (172, 140, 126), (120, 120, 116)])
ROOFS = np.array([(128, 66, 52), (72, 72, 78), (104, 92, 84), (150, 96, 70), (60, 74, 70)], dtype=np.float64)
GLASS = np.array([(46, 56, 68), (96, 122, 146), (150, 176, 196), (62, 58, 52), (222, 196, 130)], dtype=np.float64)


def paint_sky(scene: Scene, rng: np.random.Generator, kind: int) -> None:
    """Fills the whole canvas with sky of the given row of SKIES: a vertical gradient and clouds."""
    zenith, horizon, cloud = (vary(rng, color, 12) for color in SKIES[kind])
    height, width = scene.canvas.label.shape
    rows, columns = 48, 72
    down = np.linspace(0, 1, rows)[:, None] * (height / scene.camera.horizon)
    blend = np.clip(down, 0, 1)[..., None] ** rng.uniform(0.7, 1.5)
    picture = zenith * (1 - blend) + horizon * blend
    noise = sum(weight * cv2.resize(rng.random((side * 2, side)).astype(np.float32), (columns, rows),
                                    interpolation=cv2.INTER_CUBIC)
                for side, weight in ((3, 0.5), (7, 0.3), (15, 0.2)))
    cover = np.clip((noise - rng.uniform(0.40, 0.66)) * rng.uniform(3, 9), 0, 0.9)[..., None]
    cover = cover * (1 - 0.5 * np.clip(down, 0, 1)[..., None])
    picture = picture * (1 - cover) + (cloud - 20 * (1 - noise[..., None])) * cover
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    cv2.resize(picture, (width, height), dst=scene.canvas.image, interpolation=cv2.INTER_LINEAR)
    scene.canvas.label[:] = SKY


def paint_backdrop(scene: Scene, rng: np.random.Generator) -> None:
    """Paints what closes the street far away: a skyline of houses and tree tops at FAR metres."""
    left, right = scene.camera.view_edges(FAR, scene.width)
    x = left - 10.0
    while x < right + 10.0:
        length = rng.uniform(8, 26)
        if rng.random() < 0.55:
            top = rng.uniform(6, 20)
            corners = scene.camera.project([x, x, x + length, x + length], [-1, top, top, -1], FAR)
            scene.canvas.polygon(corners, scene.lit(pick(rng, WALLS), FAR), BUILDING)
        else:
            count = 5
            centers = scene.camera.project(x + rng.uniform(0, length, count), rng.uniform(2, 7, count), FAR)
            radii = rng.uniform(4, 8, count) / FAR * scene.camera.focal
            color = scene.lit(vary(rng, (84, 100, 62), 25), FAR)
            scene.canvas.circles(centers, radii, [vary(rng, color, 8) for _ in range(count)], TREE)
        x += length * rng.uniform(0.7, 1.0)


def _strip(scene: Scene, left, right, near: float = NEAR, far: float = FAR, height: float = 0.0) -> np.ndarray:
    """Returns the outline of a strip of ground between lateral positions left and right; canvas points [n, 2]."""
    depths = np.concatenate([[near], DEPTHS[(DEPTHS > near) & (DEPTHS < far)], [far]])
    return np.concatenate([scene.camera.project(left, height, depths),
                           scene.camera.project(right, height, depths[::-1])])


def paint_ground(scene: Scene, rng: np.random.Generator) -> None:
    """Paints pavement everywhere below the horizon, the road with its markings, kerbs, slabs, patches and covers."""
    canvas, half = scene.canvas, scene.road_half
    slab, asphalt = pick(rng, SLABS, 16), pick(rng, ASPHALTS, 20)
    for far, factor in ((FAR, 1.0), (40.0, 1.0), (14.0, 1.0)):
        canvas.polygon(_strip(scene, -400.0, 400.0, far=far), scene.lit(slab, far / 2, factor), PAVEMENT)
    _paint_slabs(scene, rng, slab)
    for far in (FAR, 60.0, 30.0, 15.0, 8.0):
        canvas.polygon(_strip(scene, -half, half, far=far), scene.lit(asphalt, far / 2), ROAD)
    for side in (-1, 1):
        near_edge, far_edge = side * half, side * (half + 0.28)
        kerb = scene.lit(slab, 10.0, 1.12 if side == scene.sun_side else 0.8)
        canvas.polygon(_strip(scene, near_edge, far_edge), kerb, PAVEMENT)
        gutter = scene.lit(asphalt, 10.0, 0.86)
        canvas.polygon(_strip(scene, near_edge - side * 0.35, near_edge), gutter, ROAD)
    _paint_stains(scene, rng, asphalt)
    _paint_markings(scene, rng)


def _paint_slabs(scene: Scene, rng: np.random.Generator, slab: np.ndarray) -> None:
    joint = 0.84 if rng.random() < 0.7 else 1.12
    step = rng.uniform(1.2, 2.4)
    reach = scene.road_half + scene.pavement
    for side in (-1, 1):
        z = np.arange(NEAR + 1, 26.0, step)[:, None]
        corners = scene.camera.project(side * np.array([scene.road_half, reach, reach, scene.road_half]), 0.0,
                                       z + np.array([0, 0, 0.09, 0.09]))
        scene.canvas.polygons(corners, scene.lit(slab, 12.0, joint), PAVEMENT)
        for x in np.arange(scene.road_half + step, reach, step):
            scene.canvas.polygon(_strip(scene, side * x, side * (x + 0.06), far=26.0),
                                 scene.lit(slab, 12.0, joint), PAVEMENT)


def _paint_stains(scene: Scene, rng: np.random.Generator, asphalt: np.ndarray) -> None:
    """Repair patches, tyre tracks and manhole covers."""
    half = scene.road_half
    for x in (-0.72 * half, -0.3 * half, 0.3 * half, 0.72 * half):
        scene.canvas.polygon(_strip(scene, x - 0.22, x + 0.22, far=45.0), scene.lit(asphalt, 12.0, 0.93), ROAD)
    for _ in range(int(rng.integers(1, 5))):
        x, z = rng.uniform(-half, half - 1.6), rng.uniform(3, 22)
        length, width = rng.uniform(1, 5), rng.uniform(0.8, 1.6)
        scene.canvas.polygon(_strip(scene, x, x + width, near=z, far=z + length),
                             scene.lit(asphalt, z, rng.uniform(0.78, 1.15)), ROAD)
    for _ in range(int(rng.integers(0, 3))):
        x, z = rng.uniform(-half + 0.6, half - 0.6), rng.uniform(4, 14)
        turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        corners = scene.camera.project(x + 0.38 * np.cos(turn), 0.0, z + 0.38 * np.sin(turn))
        scene.canvas.polygon(corners, scene.lit(asphalt, z, 0.62), ROAD)


def _paint_markings(scene: Scene, rng: np.random.Generator) -> None:
    paint = vary(rng, (232, 230, 222) if rng.random() < 0.8 else (226, 186, 70), 10)
    half, kind = scene.road_half, rng.random()
    if kind < 0.25:
        for x in (-0.14, 0.14):
            scene.canvas.polygon(_strip(scene, x - 0.06, x + 0.06), scene.lit(paint, 14.0), ROAD)
    elif kind < 0.9:
        for z in np.arange(NEAR + rng.uniform(0, 5), 90.0, 6.0):
            scene.canvas.polygon(_strip(scene, -0.09, 0.09, near=z, far=z + 3.0), scene.lit(paint, z), ROAD)
    if rng.random() < 0.5:
        for side in (-1, 1):
            x = side * (half - 0.55)
            scene.canvas.polygon(_strip(scene, x - 0.07, x + 0.07), scene.lit(paint, 14.0), ROAD)
    if rng.random() < 0.35:
        z = rng.uniform(6, 15)
        x = np.arange(-half + 0.3, half - 0.5, 1.0)[:, None]
        corners = scene.camera.project(x + np.array([0, 0.5, 0.5, 0]), 0.0, z + np.array([0, 0, 2.8, 2.8]))
        scene.canvas.polygons(corners, scene.lit(paint, z), ROAD)


def paint_shadows(scene: Scene, rng: np.random.Generator, spots) -> None:
    """Darkens the ground: soft shadows under things, and hard ones that houses and trees throw on sunny days.

    Args:
        spots: (x, z, half width, half length) of everything that stands on the ground, in metres.
    """
    height, width = scene.canvas.label.shape
    small = SUPERSAMPLING
    shade = np.full((height // small, width // small), 255, dtype=np.uint8)
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    strength = 255 - int(56 + 52 * scene.sunlight)
    reach = -scene.sun_side * rng.uniform(0.3, 1.6) * scene.sunlight
    outlines = []
    if scene.sunlight > 0.45 and rng.random() < 0.6:  # the houses on the sunny side throw their shadow across
        edge = scene.sun_side * scene.road_half * rng.uniform(-0.3, 1.1)
        outlines.append(_strip(scene, scene.sun_side * 60.0, edge, far=rng.uniform(18, FAR)))
    for x, z, half_width, half_length in spots:
        outlines.append(scene.camera.project(x + half_width * np.cos(turn), 0.0,
                                             np.maximum(z + half_length * np.sin(turn), NEAR)))
        if scene.sunlight > 0.3:
            ends = [x - half_width, x + half_width, x + half_width * 0.7 + reach * 2, x - half_width * 0.7 + reach * 2]
            outlines.append(scene.camera.project(ends, 0.0, np.maximum([z, z, z + 1.2, z + 1.2], NEAR)))
    for outline in outlines:
        cv2.fillPoly(shade, [np.round(outline / small).astype(np.int32)], strength)
    shade = cv2.blur(shade, (3, 3))
    shade = cv2.resize(shade, (width, height), interpolation=cv2.INTER_LINEAR)
    ground = scene.canvas.label
    shade[(ground != ROAD) & (ground != PAVEMENT)] = 255
    cv2.multiply(scene.canvas.image, cv2.merge([shade] * 3), dst=scene.canvas.image, scale=1 / 255)


def building_row(scene: Scene, rng: np.random.Generator, side: int) -> list:
    """Returns painters of one side's houses as (depth in metres, function without arguments)."""
    painters, z = [], NEAR - rng.uniform(0, 6)
    front = scene.road_half + scene.pavement
    openness = rng.choice([0.08, 0.25, 0.6])
    while z < 75.0:
        length = rng.uniform(7, 17)
        if rng.random() >= openness:
            house = _House(scene, rng, side, max(z, NEAR), z + length, front + rng.uniform(0, 1.2))
            painters.append((z + length * 0.5, house.paint))
        z += length + (rng.uniform(1.5, 6) if rng.random() < openness else 0.0)
    return painters


class _House:
    """A box along the street: a façade that runs with the road and a front wall that faces the camera."""

    def __init__(self, scene: Scene, rng: np.random.Generator, side: int, near: float, far: float, x: float) -> None:
        self.scene, self.rng, self.side = scene, rng, side
        self.near, self.far, self.x = near, far, side * x
        self.storey = rng.uniform(2.8, 3.4)
        self.storeys = int(rng.integers(2, 8))
        self.top = self.storey * self.storeys + rng.uniform(0.3, 1.2)
        self.deep = rng.uniform(8, 18)
        self.wall = pick(rng, WALLS, 22)
        self.glass = pick(rng, GLASS, 14)
        self.pitched = self.storeys <= 4 and rng.random() < 0.6

    def paint(self) -> None:
        """Paints both walls, the roof and the windows."""
        scene, outer = self.scene, self.x + self.side * self.deep
        roof = pick(self.rng, ROOFS)
        light = scene.facing(-self.side)
        if self.pitched:
            ridge = (self.x + outer) / 2, self.top + self.deep * 0.32
            slope = scene.camera.project([self.x, self.x, ridge[0], ridge[0]],
                                         [self.top, self.top, ridge[1], ridge[1]],
                                         [self.near, self.far, self.far, self.near])
            scene.canvas.polygon(slope, scene.lit(roof, self.near, light), BUILDING)
            gable = scene.camera.project([self.x, ridge[0], outer], [self.top, ridge[1], self.top], self.near)
            scene.canvas.polygon(gable, scene.lit(self.wall, self.near, 0.8), BUILDING)
        self._wall(lambda u, v: scene.camera.project(self.x, v, self.near + u), self.far - self.near, light)
        self._wall(lambda u, v: scene.camera.project(self.x + self.side * u, v, self.near), self.deep, 0.88,
                   outward=True)

    def _wall(self, place, length: float, light: float, *, outward: bool = False) -> None:
        """Paints a wall; place(u, v) gives canvas points for u metres along the wall and v metres up."""
        scene, rng = self.scene, self.rng
        scene.canvas.polygon(place(np.array([0, 0, length, length]), np.array([-0.1, self.top, self.top, -0.1])),
                             scene.lit(self.wall, self.near, light), BUILDING)
        cornice = place(np.array([0, 0, length, length]), np.array([-.5, 0, 0, -.5]) + self.top)
        scene.canvas.polygon(cornice, scene.lit(self.wall, self.near, light * rng.uniform(0.7, 1.15)), BUILDING)
        if self.near > (20.0 if outward else 42.0):
            return
        self._ground_floor(place, length, light)
        pitch, width, tall = rng.uniform(1.9, 3.2), rng.uniform(0.45, 0.65), rng.uniform(0.45, 0.68)
        left = np.arange(pitch * 0.3, length - pitch * 0.6, pitch)
        bottom = np.arange(1, self.storeys) * self.storey + self.storey * 0.22
        u, v = (grid.reshape(-1, 1) for grid in np.meshgrid(left, bottom))
        lit = rng.random(len(u)) < 0.75
        for frame, tint in ((0.12, self.wall * rng.choice([0.72, 1.2])), (0.0, self.glass)):
            across = np.array([-frame, -frame, pitch * width + frame, pitch * width + frame])
            upward = np.array([-frame, self.storey * tall + frame, self.storey * tall + frame, -frame])
            corners = place(u + across, v + upward)
            scene.canvas.polygons(corners[lit], scene.lit(tint, self.near, light), BUILDING)
            scene.canvas.polygons(corners[~lit], scene.lit(tint * 1.25, self.near, light), BUILDING)

    def _ground_floor(self, place, length: float, light: float) -> None:
        scene, rng = self.scene, self.rng
        base = pick(rng, WALLS, 20) if rng.random() < 0.5 else self.wall * 0.85
        scene.canvas.polygon(place(np.array([0, 0, length, length]), np.array([0, 1, 1, 0]) * self.storey),
                             scene.lit(base, self.near, light), BUILDING)
        pitch = rng.uniform(1.6, 3.4)
        left = np.arange(rng.uniform(0.3, 0.9), length - pitch, pitch)[:, None]
        doors = rng.random(len(left)) < 0.3
        for chosen, tint, low, width in ((~doors, self.glass, rng.uniform(0.4, 0.9), pitch * rng.uniform(0.55, 0.85)),
                                         (doors, pick(rng, WALLS) * 0.6, 0.0, 1.1)):
            corners = place(left[chosen] + np.array([0, 0, width, width]), np.array([low, 2.3, 2.3, low]))
            scene.canvas.polygons(corners, scene.lit(tint, self.near, light), BUILDING)

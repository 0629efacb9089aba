"""Composes one street scene: chooses street, camera and light, places things in it, and paints them far to near.
"""
from __future__ import annotations

import numpy as np

from paddleseg_ext.data.synth_canvas import Camera, Canvas, Scene, offspring, vary
from paddleseg_ext.data.synth_objects import paint_car, paint_hedge, paint_person, paint_pole, paint_sign, paint_tree
from paddleseg_ext.data.synth_photo import photograph
from paddleseg_ext.data.synth_street import SKIES, building_row, paint_backdrop, paint_ground, paint_shadows, paint_sky

__all__ = ['SMALLEST', 'render_scene']

SMALLEST = 16  # pixels


def render_scene(width: int, height: int, seed) -> tuple[np.ndarray, np.ndarray]:
    """Draws one street scene.

    Args:
        width, height: size in pixels, at least 16 each.
        seed: an int ≥ 0, or a sequence of them such as (seed, index).

    Returns:
        image uint8 [height, width, 3] RGB, label uint8 [height, width] with ids of SCENE_CLASSES (no ignored pixels).

    Raises:
        ValueError: a side is smaller than 16 pixels.
    """
    if min(width, height) < SMALLEST:
        raise ValueError(f'a scene of {width}x{height} is too small: both sides need at least {SMALLEST} pixels')
    # NOTE: one generator per stage, so that a change in one painter does not reshuffle the whole scene.
    stages = np.random.SeedSequence(seed).spawn(4)
    layout, ground, things, camera = (np.random.default_rng(stage) for stage in stages)
    scene, sky = _compose(width, height, layout)
    paint_sky(scene, ground, sky)
    paint_backdrop(scene, ground)
    paint_ground(scene, ground)
    houses = building_row(scene, offspring(things), -1) + building_row(scene, offspring(things), 1)
    painters, spots = _furnish(scene, things)
    paint_shadows(scene, ground, spots)
    # NOTE: houses come first whatever their depth, because they stand behind the pavement that everything else is on.
    for group in (houses, painters):
        for _, paint in sorted(group, key=lambda painter: -painter[0]):
            paint()
    image, label = scene.canvas.finish()
    return photograph(image, label, camera), label


def _compose(width: int, height: int, rng: np.random.Generator) -> tuple[Scene, int]:
    """Chooses street, camera and light; returns the scene and a row of SKIES."""
    road_half = rng.uniform(3.2, 4.8)
    offset = rng.choice([-1, 1]) * road_half * rng.uniform(0.1, 0.55)
    sky = int(rng.integers(len(SKIES)))
    sunlight = rng.uniform(0.5, 1.0) if sky in (0, 1, 4) else rng.uniform(0.0, 0.25)
    scene = Scene(camera=Camera(width, height, rng, offset=offset), canvas=Canvas(width, height), width=width,
                  height=height, road_half=road_half, pavement=rng.uniform(2.2, 4.5), sun_side=int(rng.choice([-1, 1])),
                  sunlight=sunlight, haze=vary(rng, SKIES[sky, 1], 10), haze_distance=rng.uniform(110, 320))
    return scene, sky


def _furnish(scene: Scene, rng: np.random.Generator) -> tuple[list, list]:
    """Places everything but the houses.

    Returns:
        painters (depth, function) and shadow spots (x, z, half width, half length), metres.
    """
    painters, spots = [], []

    def stand(paint, x, z, half_width, half_length, **options):
        child = offspring(rng)
        painters.append((z, lambda: paint(scene, child, x, z, **options)))
        spots.append((x, z + half_length * 0.8, half_width, half_length))

    edge, outer = scene.road_half, scene.road_half + scene.pavement
    trees = int(rng.choice([1, 2, 4]))
    for side in (-1, 1):
        for z in _depths(rng, trees, 6, 32, gap=3.0):
            stand(paint_tree, side * rng.uniform(outer - 1.0, outer + 0.5), z, 1.2, 0.9)
        for z in _depths(rng, int(rng.integers(0, 3)), 6, 25):
            stand(paint_hedge, side * (outer + rng.uniform(-0.4, 0.6)), z, 1.2, 0.5)
        for z in _depths(rng, int(rng.integers(1, 5)), 4.2, 12):
            stand(paint_person, side * rng.uniform(edge + 0.6, outer - 0.2), z, 0.4, 0.25)
        for z in _depths(rng, int(rng.integers(1, 3)), 4.5, 13, gap=4.0):
            stand(paint_pole, side * (edge + rng.uniform(0.4, 0.7)), z, 0.25, 0.25)
        for z in _depths(rng, int(rng.integers(1, 3)), 4.5, 12, gap=4.0):
            stand(paint_sign, side * (edge + rng.uniform(0.5, 0.9)), z, 0.25, 0.2)
        if rng.random() < 0.75:
            for z in _depths(rng, int(rng.integers(1, 5)), 5.5, 32, gap=6.0):
                stand(paint_car, side * (edge - 1.05), z, 1.1, 2.4, oncoming=bool(rng.random() < 0.5))
        for z in _depths(rng, int(rng.integers(1, 4)), 8, 45, gap=8.0):
            stand(paint_car, side * edge * 0.38, z, 1.1, 2.4, oncoming=side * scene.camera.offset < 0)
    if rng.random() < 0.4:
        for z in _depths(rng, int(rng.integers(1, 3)), 5.5, 12):
            stand(paint_person, rng.uniform(-edge, edge), z, 0.4, 0.25)
    return painters, spots


def _depths(rng: np.random.Generator, count: int, near: float, far: float, *, gap: float = 0.8) -> list[float]:
    """Returns at most `count` depths in metres, denser near the camera, at least `gap` apart."""
    depths: list[float] = []
    for z in near * (far / near) ** rng.random(count):
        if all(abs(z - other) >= gap for other in depths):
            depths.append(float(z))
    return depths

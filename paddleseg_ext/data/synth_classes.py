"""The classes of the synthetic street scenes: the one table of ids, names and colours."""
from __future__ import annotations

__all__ = ['SCENE_CLASSES', 'SCENE_CLASS_NAMES', 'SCENE_CLASS_COLORS', 'SKY', 'ROAD', 'PAVEMENT', 'BUILDING', 'TREE',
           'CAR', 'PERSON', 'POLE', 'SIGN']

# (name, palette colour r g b); the row number is the label id
SCENE_CLASSES = (
    ('sky',      (70, 130, 180)),
    ('road',     (128, 64, 128)),
    ('pavement', (244, 35, 232)),
    ('building', (90, 90, 90)),
    ('tree',     (107, 142, 35)),
    ('car',      (0, 0, 142)),
    ('person',   (220, 20, 60)),
    ('pole',     (190, 153, 153)),
    ('sign',     (250, 220, 0)),
)

SKY, ROAD, PAVEMENT, BUILDING, TREE, CAR, PERSON, POLE, SIGN = range(len(SCENE_CLASSES))
SCENE_CLASS_NAMES = [name for name, _ in SCENE_CLASSES]
SCENE_CLASS_COLORS = [list(color) for _, color in SCENE_CLASSES]

"""Street-like scenes with exact labels, drawn from a seed: the embedded data set.

`render_scene` draws one picture, `write_scenes` a data set folder. A scene depends on its seed only: every random
choice comes from numpy Generators made of it. A label is the class of the topmost shape at the pixel's centre,
so labels have no soft edges, while the picture is smoothed over each pixel's area.
"""
from paddleseg_ext.data.synth_classes import SCENE_CLASS_COLORS, SCENE_CLASS_NAMES, SCENE_CLASSES
from paddleseg_ext.data.synth_files import write_scenes
from paddleseg_ext.data.synth_scene import render_scene

__all__ = ['SCENE_CLASSES', 'SCENE_CLASS_NAMES', 'SCENE_CLASS_COLORS', 'render_scene', 'write_scenes']

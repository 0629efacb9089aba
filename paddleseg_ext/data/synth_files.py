"""Writes the synthetic scenes as a data set folder that PaddleSeg's `Dataset` and our `SyntheticScenes` read."""
from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from paddleseg_ext.data.synth_classes import SCENE_CLASS_COLORS, SCENE_CLASSES
from paddleseg_ext.data.synth_scene import SMALLEST, render_scene
from paddleseg_ext.errors import UserError
from paddleseg_ext.files import atomic_folder

__all__ = ['SCENES_FILE', 'SCENES_VERSION', 'write_scenes']

SCENES_FILE = 'scenes.json'
SCENES_VERSION = 1  # of the drawing: another number, other pictures for the same seed
SPLITS = ('train', 'val')


def write_scenes(folder, *, train: int = 200, val: int = 50, width: int = 192, height: int = 128, seed: int = 0,
                 progress: bool = False) -> Path:
    """Writes a data set of street scenes.

    The folder gets images/{train,val}/*.png, labels/{train,val}/*.png (palette PNG whose values are the class ids),
    train.txt and val.txt (`image label` lines relative to the folder), classes.txt (`name r g b` lines) and scenes.json
    (the parameters). It appears whole or not at all. Scene i of a split depends on (seed, split, i) only.

    Args:
        folder: where to write; absent, empty, or an older set of scenes, which is replaced when its parameters differ.
        train, val: number of pictures, at least 1 each.
        width, height: their size in pixels, at least 16 each.
        seed: an int ≥ 0.
        progress: whether to show a bar on stderr.

    Returns:
        The folder. Nothing is written when it already holds this very set.

    Raises:
        UserError: a number is out of range, or the folder holds something else.
    """
    folder = Path(folder)
    parameters = {'version': SCENES_VERSION, 'train': train, 'val': val, 'width': width, 'height': height, 'seed': seed}
    _check(parameters)
    if _written_parameters(folder) == parameters:
        return folder
    with atomic_folder(folder) as temporary:
        _write_all(temporary, parameters, progress)
    return folder


def _check(parameters: dict) -> None:
    least = {'train': 1, 'val': 1, 'width': SMALLEST, 'height': SMALLEST, 'seed': 0}
    for name, smallest in least.items():
        if parameters[name] < smallest:
            raise UserError(f'{name} is {parameters[name]}, but it has to be at least {smallest}')


def _written_parameters(folder: Path):
    """Returns the parameters of the scenes in `folder`, None where there is nothing yet."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UserError(f'{folder} is a file; name a folder for the scenes')
    description = folder / SCENES_FILE
    if description.is_file():
        try:
            return json.loads(description.read_text(encoding='utf-8'))['parameters']
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{description} is damaged ({error}): delete the folder to have it written anew') from error
    if any(folder.iterdir()):
        raise UserError(f'{folder} is not empty and holds no {SCENES_FILE}, so it is not a set of scenes and will not '
                        'be overwritten; name another folder with --save_dir')
    return None


def _write_all(folder: Path, parameters: dict, progress: bool) -> None:
    for number, split in enumerate(SPLITS):
        for kind in ('images', 'labels'):
            (folder / kind / split).mkdir(parents=True)
        lines = []
        for index in _progress(range(parameters[split]), f'{split} scenes', progress):
            name = f'{split}/{index:05d}.png'
            image, label = render_scene(parameters['width'], parameters['height'], (parameters['seed'], number, index))
            cv2.imencode('.png', image[:, :, ::-1])[1].tofile(str(folder / 'images' / name))
            _palette_image(label).save(folder / 'labels' / name, optimize=True)
            lines.append(f'images/{name} labels/{name}\n')
        (folder / f'{split}.txt').write_text(''.join(lines), encoding='utf-8')
    rows = [f'{name} {red} {green} {blue}\n' for name, (red, green, blue) in SCENE_CLASSES]
    (folder / 'classes.txt').write_text(''.join(rows), encoding='utf-8')
    content = {'what': 'synthetic street scenes of paddleseg_ext', 'parameters': parameters}
    (folder / SCENES_FILE).write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def _palette_image(label: np.ndarray) -> Image.Image:
    image = Image.fromarray(label)
    image.putpalette([value for color in SCENE_CLASS_COLORS for value in color])
    return image


def _progress(items, title: str, shown: bool):
    if not shown:
        return items
    from tqdm import tqdm
    return tqdm(items, desc=title, unit='image', leave=True)

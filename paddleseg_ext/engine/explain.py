"""Pictures of what a model attends to in an image: one for each attention layer, and a list of what they show."""
from __future__ import annotations

import contextlib
import fnmatch
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext.data.image_io import displayable, preprocess, read_image
from paddleseg_ext.engine.evaluate import evaluation_mode
from paddleseg_ext.engine.explain_geometry import Frame, Point, class_centres, frame_of
from paddleseg_ext.engine.explain_looks import LOOKS, Look, look_into
from paddleseg_ext.engine.explain_picture import write_look
from paddleseg_ext.engine.forward import predict_rows
from paddleseg_ext.errors import UserError
from paddleseg_ext.files import atomic_path, atomic_write_text

__all__ = ['INDEX', 'ExplainOptions', 'chosen_layers', 'explain_image', 'visible_layers']

log = logging.getLogger('paddleseg_ext')

INDEX = 'explain.json'
"""File beside the pictures that says what each shows."""
SHOWN = {'head': 4, 'token': 16}
"""So many heads or tokens are drawn where none are asked for."""
MOST_POINTS = 20


@dataclass(frozen=True)
class ExplainOptions:
    """What to look at.

    Attributes:
        layers: name patterns of attention layers; none for the last layer of each stage.
        heads: numbers from 0, of the tokens in layers that have those; empty for all, None for the four heads or
            sixteen tokens whose maps have the most contrast. A layer with a single map is always drawn; without
            `layers`, one that has none of the numbers is left out.
        points: (x, y) in pixels of the image; none for the middles of the four largest predicted classes.
        save_arrays: also write the numbers behind each picture as .npz.
    """

    layers: tuple[str, ...] = ()
    heads: tuple[int, ...] | None = None
    points: tuple[tuple[int, int], ...] = ()
    save_arrays: bool = False


def explain_image(model: nn.Layer, path: str | Path, compose: Any, save_dir: str | Path,
                  options: ExplainOptions | None = None, *, names: Callable[[int], Sequence[str]]) -> list[Path]:
    """Write pictures of what the layers of a model attend to in one image, seen whole.

    The model computes what it always does; what its layers got is noted, and their attention is computed from that
    anew.

    Args:
        model: put into evaluation mode and back.
        path: the image.
        compose: PaddleSeg's ``Compose`` of the validation transforms; its `img_channels` is what the image is read as.
        save_dir: gets a folder of the image's name with a picture for each layer, and `explain.json`.
        options: what to look at.
        names: gives the names of so many classes.

    Returns:
        the pictures.

    Raises:
        UserError: no layer to look into, patterns that match none, heads that a layer asked for or all layers have
            not, points outside the image, an image that cannot be read or is too small, a folder with the pictures
            of another image.
    """
    options = options or ExplainOptions()
    path = Path(path)
    layers = chosen_layers(model, options.layers)
    image = read_image(path, channels=compose.img_channels)
    _check_points(options.points, path, image.shape[:2])
    folder = Path(save_dir) / path.stem
    _check_folder(folder, path)
    pixels, trans_info = preprocess(image, compose)
    with evaluation_mode(model), _recorded(layers) as inputs:
        labels, count = _predicted(model, pixels, trans_info, path)
    points = _points(options.points or class_centres(labels), labels, names(count))
    frame = frame_of(image.shape[:2], pixels.shape[-2:], trans_info, points)
    layers = _that_ran(layers, inputs, asked=bool(options.layers))
    looks = {name: look_into(layer, inputs[name], frame) for name, layer in layers.items()}
    heads = _to_draw(looks, options.heads, asked=bool(options.layers))
    entries = [_write(folder, name, looks[name], displayable(image), frame, numbers, options.save_arrays)
               for name, numbers in heads.items()]
    index = {'image': str(path.resolve()), 'height': image.shape[0], 'width': image.shape[1],
             'points': [vars(point) for point in points], 'pictures': entries}
    atomic_write_text(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + '\n')
    return [folder / entry['file'] for entry in entries]


def visible_layers(model: nn.Layer) -> dict[str, nn.Layer]:
    """The layers of a model, by name, that can be looked into: those of a class in ``explain_looks.LOOKS``."""
    return {name: layer for name, layer in model.named_sublayers()
            if any(kind in LOOKS for kind in type(layer).__mro__)}


def chosen_layers(model: nn.Layer, patterns: Sequence[str] = ()) -> dict[str, nn.Layer]:
    """The layers to look into, by name.

    Args:
        model: the model.
        patterns: of names, with `*` and `?`; without any the last layer of each stage, which for a backbone that says
            which blocks its maps come from (`out_indices`) are the layers of those, and all layers of a list that has
            nothing else, as those of the levels of a pyramid.

    Raises:
        UserError: none can be looked into, or a pattern matches none.
    """
    visible = visible_layers(model)
    if not visible:
        kinds = ', '.join(kind.__name__ for kind in LOOKS)
        raise UserError(f'no layer of {type(model).__name__} can be looked into; explain knows layers of the classes '
                        f'{kinds}, which RTFormer, VTFPN and the Twins, XCiT and VT-ResNet backbones have.')
    if not patterns:
        return {name: visible[name] for name in _last_of_stages(model, list(visible))}
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in visible):
            raise UserError(f'--layers: {pattern} matches no layer that can be looked into; those of this model are '
                            f'{", ".join(visible)}.')
    return {name: layer for name, layer in visible.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}


def _last_of_stages(model: nn.Layer, names: list[str]) -> list[str]:
    """Names without the number of a block are stages; of each the last, or those of the owner's `out_indices`.

    A name that ends with its number is of no block, but one of many beside each other.
    """
    stages: dict[tuple[str, str], dict[int, str]] = {}
    chosen = []
    for name in names:
        parts = name.split('.')
        numbers = [place for place, part in enumerate(parts) if part.isdigit()]
        if numbers and not parts[-1].isdigit():
            place = numbers[-1]
            stage = '.'.join(parts[:place]), '.'.join(parts[place + 1:])
            stages.setdefault(stage, {})[int(parts[place])] = name
        else:
            chosen.append(name)
    owners = dict(model.named_sublayers(include_self=True))
    for (stage, _), blocks in stages.items():
        indices = getattr(owners.get(stage.rpartition('.')[0]), 'out_indices', ())
        chosen += [blocks[index] for index in indices if index in blocks] or [blocks[max(blocks)]]
    return [name for name in names if name in chosen]


@contextlib.contextmanager
def _recorded(layers: dict[str, nn.Layer]) -> Iterator[dict[str, tuple]]:
    """While it is open, what each layer was called with is noted by its name; the layers compute as ever."""
    inputs: dict[str, tuple] = {}

    def note(name: str) -> Callable:
        def hook(_, given):
            inputs[name] = given
        return hook

    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def _predicted(model: nn.Layer, pixels: np.ndarray, trans_info: Sequence, path: Path) -> tuple[np.ndarray, int]:
    """Class ids [H, W] of the image at its own size, and the number of classes."""
    parts, count = [], 0
    try:
        for logits in predict_rows(model, pixels[np.newaxis], trans_info):
            count = logits.shape[1]
            parts.append(paddle.argmax(logits, axis=1, dtype='int32').numpy())
    except ValueError as error:
        raise UserError(f'{path}: {error}') from error
    return np.concatenate(parts, axis=1)[0], count


def _that_ran(layers: dict[str, nn.Layer], inputs: dict[str, tuple], *, asked: bool) -> dict[str, nn.Layer]:
    idle = [name for name in layers if name not in inputs]
    if idle and (asked or len(idle) == len(layers)):
        raise UserError(f'the model does not run {", ".join(idle)}, so there is nothing to see of them; its maps come '
                        'from earlier blocks. Choose other --layers.')
    return {name: layer for name, layer in layers.items() if name in inputs}


def _check_points(points: Sequence[tuple[int, int]], path: Path, size: Sequence[int]) -> None:
    if len(points) > MOST_POINTS:
        raise UserError(f'--points has {len(points)} points; a picture has a row for each, {MOST_POINTS} at most.')
    for x, y in points:
        if not (0 <= x < size[1] and 0 <= y < size[0]):
            raise UserError(f'--points: ({x}, {y}) is outside {path}, which is {size[1]}×{size[0]} pixels (width × '
                            f'height): x is 0 to {size[1] - 1}, y is 0 to {size[0] - 1}.')


def _check_folder(folder: Path, path: Path) -> None:
    """Refuse the folder of another image of the same name."""
    index = folder / INDEX
    if not index.exists():
        return
    try:
        before = json.loads(index.read_text(encoding='utf-8'))['image']
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{index}: not a list of pictures of explain ({error}); remove it or choose another '
                        '--save_dir.') from error
    if before != str(path.resolve()):
        raise UserError(f'{folder} has the pictures of {before}, which those of {path.resolve()} would replace. Choose '
                        'another --save_dir, or remove that folder.')


def _points(places: Sequence[tuple[int, int]], labels: np.ndarray, names: Sequence[str]) -> list[Point]:
    return [Point(x, y, str(names[labels[y, x]])) for x, y in places]


def _to_draw(looks: dict[str, Look], numbers: Sequence[int] | None, *, asked: bool) -> dict[str, list[int]]:
    """Which heads or tokens to draw, by layer; layers that have none of the numbers are refused if asked for."""
    heads = {name: _heads(look, numbers) for name, look in looks.items()}
    without = [f'{name} has the {look.unit}s {look.numbers[0]} to {look.numbers[-1]}'
               for name, look in looks.items() if not heads[name]]
    flag = f'--heads {" ".join(map(str, numbers or ()))}'
    if without and (asked or len(without) == len(looks)):
        raise UserError(f'{flag}: {", ".join(without)}; choose some of them, or other --layers.')
    for text in without:
        log.warning('%s: %s, so it is left out.', flag, text)
    return {name: chosen for name, chosen in heads.items() if chosen}


def _heads(look: Look, numbers: Sequence[int] | None) -> list[int]:
    """Which heads or tokens of a layer to draw, in their order; a single one whatever its number."""
    if numbers is None:
        return _contrasting(look, SHOWN[look.unit])
    if not numbers or look.heads == 1:
        return list(look.numbers)
    return sorted(set(numbers) & set(look.numbers))


def _contrasting(look: Look, count: int) -> list[int]:
    """The heads or tokens whose maps vary most against their mean, in their order."""
    contrast = [np.mean([row.maps[place].std() / max(row.maps[place].mean(), 1e-12) for row in look.rows
                         if row.numbers is None]) for place in range(look.heads)]
    return [look.numbers[place] for place in sorted(np.argsort(contrast)[::-1][:count])]


def _write(folder: Path, name: str, look: Look, image: np.ndarray, frame: Frame, heads: list[int],
           save_arrays: bool) -> dict[str, Any]:
    """The picture of one layer, and its numbers if asked; returns its entry in the index."""
    entry = {'file': f'{name}.png', 'layer': name, 'shows': look.shows, 'unit': look.unit,
             'all_heads': look.heads, 'first_head': look.numbers[0], 'heads': heads,
             'rows': [row.title for row in look.rows]}
    write_look(look, image, frame, folder / entry['file'], layer=name, heads=heads)
    if save_arrays:
        entry['arrays'] = {'file': f'{name}.npz', 'axes': look.shapes}
        with atomic_path(folder / entry['arrays']['file']) as temporary:
            np.savez_compressed(temporary, **look.arrays)
    return entry

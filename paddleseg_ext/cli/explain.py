"""`paddleseg explain`: pictures of what a model attends to in an image."""
from __future__ import annotations

import argparse

from paddleseg_ext.cli.flags import add_config_flags, add_device_flag
from paddleseg_ext.errors import UserError

SUMMARY = 'draw what the attention layers of a model attend to in an image, head by head'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags as those of `predict`, and `--layers`, `--heads`, `--points`, `--save_arrays`."""
    add_config_flags(parser)
    parser.add_argument('--model_path', required=True, help='a .pdparams file, a checkpoint folder or a run folder')
    parser.add_argument('--image', '--image_path', required=True, help='the image to look at')
    parser.add_argument('--save_dir', default='output/explain', help="where the image's folder of pictures goes")
    parser.add_argument('--layers', nargs='+', default=[], metavar='PATTERN',
                        help="names of attention layers, with * and ?, as in 'backbone.stages.2.*'; default: the last "
                        'of each stage')
    parser.add_argument('--heads', nargs='+', metavar='HEAD',
                        help='numbers from 0, of tokens in layers that have those, or all; default: the four heads or '
                        'sixteen tokens whose maps have the most contrast; a layer with a single map is always drawn')
    parser.add_argument('--points', nargs='+', type=int, default=[], metavar='X Y',
                        help='pixels of the image to look from; default: the middles of the largest predicted classes')
    parser.add_argument('--save_arrays', action='store_true', help='also write the numbers behind each picture as .npz')
    add_device_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the pictures and print where they are; 0.

    Raises:
        UserError: flags that say nothing, weights that do not fit, and all that ``engine.explain`` refuses.
    """
    import functools

    from paddleseg.transforms import Compose

    from paddleseg_ext.checkpoints.weights import load_weights
    from paddleseg_ext.cli.flags import open_config, set_device
    from paddleseg_ext.data.classes import class_names
    from paddleseg_ext.engine.explain import INDEX, ExplainOptions, explain_image

    options = ExplainOptions(tuple(args.layers), _heads(args.heads), _points(args.points), args.save_arrays)
    set_device(args.device)
    builder = open_config(args, paths=False)  # the data set need not be there
    tree = builder.config.dic
    model = builder.model
    load_weights(model, args.model_path)
    section = tree.get('val_dataset') or {}
    channels = section.get('img_channels', getattr(builder.val_dataset_class, 'IMG_CHANNELS', 3))
    compose = Compose(builder.val_transforms, img_channels=channels)
    pictures = explain_image(model, args.image, compose, args.save_dir, options,
                             names=functools.partial(class_names, tree))
    for picture in pictures:
        print(picture)
    print(f'{pictures[0].parent / INDEX} says what they show.')
    return 0


def _heads(given: list[str] | None) -> tuple[int, ...] | None:
    if given is None or given == ['all']:
        return None if given is None else ()
    if not all(head.isdigit() for head in given):
        raise UserError(f'--heads {" ".join(given)}: give numbers from 0, as in --heads 0 3, or all.')
    return tuple(map(int, given))


def _points(given: list[int]) -> tuple[tuple[int, int], ...]:
    if len(given) % 2:
        raise UserError(f'--points has {len(given)} numbers: {" ".join(map(str, given))}; give x and y of each point, '
                        'as in --points 320 240 100 50.')
    return tuple(zip(given[::2], given[1::2]))

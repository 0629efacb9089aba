"""`paddleseg predict`: class ids, palette masks and overlays of images."""
from __future__ import annotations

import argparse
import sys

from paddleseg_ext.cli.flags import add_config_flags, add_device_flag
from paddleseg_ext.cli.testing_flags import add_testing_flags, open_testing_options

SUMMARY = 'segment an image, a folder or a list: raw id masks, palette masks and overlays with a legend'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags as PaddleSeg's tools/predict.py, and `--opts`, `--window_batch`, `--precision`."""
    add_config_flags(parser)
    parser.add_argument('--model_path', required=True, help='a .pdparams file, a checkpoint folder or a run folder')
    parser.add_argument('--image_path', required=True,
                        help='an image, a folder (searched with its sub-folders), or a list file: one image per line')
    parser.add_argument('--save_dir', default='output/result', help='where results go')
    parser.add_argument('--custom_color', nargs='+', type=int, metavar='R G B',
                        help='colours of the first classes, three numbers of 0–255 each')
    add_device_flag(parser)
    add_testing_flags(parser, augment_flag='--aug_pred')


def run(args: argparse.Namespace) -> int:
    """Predict all images; 0, or 1 when some could not be done (all others are).

    Raises:
        UserError: no images, weights that do not fit, results that would overwrite those of other images.
    """
    from paddleseg.transforms import Compose

    from paddleseg_ext.checkpoints.weights import load_weights
    from paddleseg_ext.cli.flags import open_config, set_device
    from paddleseg_ext.data.image_io import list_images
    from paddleseg_ext.data.render import RESULT_FOLDERS
    from paddleseg_ext.engine.predict import predict_folder

    set_device(args.device)
    builder = open_config(args, paths=False)  # the data set need not be there
    # NOTE: aug_eval of the YAML is for val only, as in PaddleSeg, because predicting is about speed unless asked.
    options = open_testing_options(args, builder.config.dic.get('test_config'), augment=bool(args.aug_pred))
    items = list_images(args.image_path, leave_out=args.save_dir)
    names, colors = _classes(builder, args.custom_color)
    model = builder.model
    load_weights(model, args.model_path)
    compose = Compose(builder.val_transforms, img_channels=_image_channels(builder))
    report = predict_folder(model, compose, items, args.save_dir, options, names=names, colors=colors)
    for path, reason in report.failures.items():
        print(f'not predicted: {path}: {reason}', file=sys.stderr)
    print(f'{len(report.written)} of {len(items)} images predicted; ids, palette masks and overlays are in '
          f'{args.save_dir}/{{{",".join(RESULT_FOLDERS)}}}')
    return 1 if report.failures else 0


def _classes(builder, custom_color: list[int] | None) -> tuple[list[str], list[list[int]]]:
    """Names and colours by class, with the colours of the command first."""
    from paddleseg_ext.data.classes import class_colors, class_names
    tree = builder.config.dic
    count = _class_count(builder)
    return class_names(tree, count), _custom_colors(class_colors(tree, count), custom_color)


def _class_count(builder) -> int:
    """num_classes of the model, the data sets or their classes, whichever the YAML states."""
    tree = builder.config.dic
    sections = [tree.get(name) or {} for name in ('model', 'val_dataset', 'train_dataset')]
    count = next((section['num_classes'] for section in sections if 'num_classes' in section), None)
    return count if count is not None else builder.val_dataset_class.NUM_CLASSES


def _image_channels(builder) -> int:
    """Channels that the validation images have: of the data set's section, its class, or 3."""
    section = builder.config.dic.get('val_dataset') or {}
    return section.get('img_channels', getattr(builder.val_dataset_class, 'IMG_CHANNELS', 3))


def _custom_colors(colors: list[list[int]], custom: list[int] | None) -> list[list[int]]:
    from paddleseg_ext.errors import UserError
    if not custom:
        return colors
    if len(custom) % 3 or len(custom) > 3 * len(colors) or not all(0 <= value <= 255 for value in custom):
        raise UserError(f'--custom_color has {len(custom)} numbers: {custom}; give three numbers of 0–255 (red, green, '
                        f'blue) for each of the first classes, for at most all {len(colors)}.')
    given = [custom[start:start + 3] for start in range(0, len(custom), 3)]
    return given + colors[len(given):]

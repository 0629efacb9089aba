"""The flags about how a model is tested, which `val` and `predict` share; spelled as PaddleSeg's."""
from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddleseg_ext.engine.options import TestOptions

__all__ = ['add_testing_flags', 'open_testing_options']


def add_testing_flags(parser: argparse.ArgumentParser, *, augment_flag: str) -> None:
    """Add them; what is not given is left to the YAML's test_config."""
    group = parser.add_argument_group('how to test', 'what is not given here is as test_config of the YAML says')
    yes = {'action': 'store_true', 'default': None}
    group.add_argument(augment_flag, **yes, help='average over --scales and flips')
    group.add_argument('--scales', nargs='+', type=float, help='factors for the input size, e.g. 0.75 1.0 1.25')
    group.add_argument('--flip_horizontal', **yes, help=f'with {augment_flag}: also predict the mirrored image')
    group.add_argument('--flip_vertical', **yes, help=f'with {augment_flag}: also predict the image upside down')
    group.add_argument('--is_slide', **yes, help='predict window by window; large images then need little memory')
    pixels = {'nargs': 2, 'type': int, 'metavar': ('WIDTH', 'HEIGHT')}
    group.add_argument('--crop_size', **pixels, help='size of a window in pixels')
    group.add_argument('--stride', **pixels, help='step between windows in pixels, at most --crop_size')
    group.add_argument('--window_batch', type=int, help='windows put through the model at once')
    group.add_argument('--precision', choices=['fp32', 'fp16', 'bf16'], help='mixed precision, on a GPU only')


def open_testing_options(args: argparse.Namespace, test_config: dict | None, *, augment: bool | None) -> TestOptions:
    """The options of the YAML with those of the command over them.

    Args:
        args: parsed flags.
        test_config: the YAML's section.
        augment: value of the verb's augment flag; None leaves it to the YAML.

    Raises:
        UserError: values that do not go together.
    """
    from paddleseg_ext.engine.options import TestOptions
    names = ('scales', 'flip_horizontal', 'flip_vertical', 'is_slide', 'crop_size', 'stride', 'window_batch',
             'precision')
    return TestOptions.from_config(test_config, aug_eval=augment, **{name: getattr(args, name) for name in names})

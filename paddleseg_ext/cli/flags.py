"""Flags that several verbs share, spelled as in PaddleSeg's scripts, and what they open. Light at import."""
from __future__ import annotations

import argparse

from paddleseg_ext.errors import UserError

__all__ = ['add_config_flags', 'add_device_flag', 'is_first_rank', 'open_config', 'set_device']

DEVICES = ('cpu', 'gpu', 'xpu', 'npu', 'mlu')


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and `--opts`."""
    parser.add_argument('--config', required=True, metavar='YAML',
                        help='configuration file, or the name of a shipped one, with or without .yml')
    parser.add_argument('--opts', nargs='+', default=[], metavar='KEY=VALUE',
                        help='override keys of the configuration, such as model.cross_size=8')


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--device`; by default the GPU where Paddle has one, else the CPU."""
    parser.add_argument('--device', choices=DEVICES, default=None,
                        help='where to compute; default: gpu if there is one, else cpu')


def set_device(device: str | None) -> str:
    """Make Paddle compute on `device`, and return it; None takes the GPU where there is one.

    Raises:
        UserError: this Paddle cannot compute there.
    """
    import paddle
    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if device is None:
        device = 'gpu' if gpus else 'cpu'
    if device == 'gpu' and not gpus:
        built = 'sees no GPU' if paddle.is_compiled_with_cuda() else 'was built without CUDA'
        raise UserError(f'--device gpu: this paddlepaddle ({paddle.__version__}) {built}; use --device cpu, or install '
                        'paddlepaddle-gpu (see `paddleseg doctor`).')
    if device in ('xpu', 'npu', 'mlu'):
        present = paddle.device.get_all_custom_device_type() + (['xpu'] if paddle.is_compiled_with_xpu() else [])
        if device not in present:
            raise UserError(f'--device {device}: this paddlepaddle ({paddle.__version__}) does not know the device.')
    paddle.set_device(device)
    return device


def is_first_rank() -> bool:
    """Whether this process, of several that train or evaluate together, is the one that reports."""
    import paddle
    return paddle.distributed.get_rank() == 0


def open_config(args: argparse.Namespace, *, paths: bool = True, **changes):
    """The checked configuration of `--config` and `--opts` as PaddleSeg's SegBuilder.

    With `--model_path` the model is built without its `pretrained` weights, which would only be fetched to be replaced.

    Args:
        paths: also insist that the files and folders it names exist.
        changes: `iters`, `batch_size`, `learning_rate` in place of the file's, where not None.

    Raises:
        UserError: with every fault of the configuration.
    """
    from paddleseg_ext import config
    loaded = config.load_config(args.config, opts=args.opts, **changes)
    config.require_valid(loaded, paths=paths)
    builder = config.make_builder(loaded)
    if getattr(args, 'model_path', None):
        config.drop_pretrained(builder.config.dic['model'])
    return builder

"""`paddleseg convert`: weights of other programs as a file with our names."""
from __future__ import annotations

import argparse

SUMMARY = 'convert weights of timm, mmsegmentation, PaddleClas and others to a file with our names'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('source', metavar='SRC', help='a file, a checkpoint or run folder, an https:// address, or '
                        'timm/NAME for the Hugging Face hub; what it is, is told by the names in it')
    parser.add_argument('destination', metavar='DST', help='the .pdparams or .safetensors file to write')
    parser.add_argument('--config', metavar='YAML', help='convert into the model of this configuration; without it the '
                        'model is told by names and shapes')
    parser.add_argument('--opts', nargs='*', default=[], metavar='KEY=VALUE', help='changes to the configuration')
    parser.add_argument('--allow', nargs='*', default=[], metavar='PATTERN',
                        help='weights that may be missing or left over, such as "head.*"')


def run(args: argparse.Namespace) -> int:
    """Convert and print what was read, built and written; 0.

    Raises:
        UserError: the source is unknown or does not fit; nothing has been written then.
    """
    from paddleseg_ext.cli.flags import open_config, set_device
    from paddleseg_ext.engine.convert import convert
    from paddleseg_ext.errors import UserError

    set_device('cpu')
    if args.opts and not args.config:
        raise UserError('--opts changes a configuration; name it with --config.')
    args.model_path = args.source  # so that the configuration's own `pretrained` weights are not fetched
    model = open_config(args, paths=False).model if args.config else None
    print(convert(args.source, args.destination, model=model, allow=args.allow).text())
    return 0

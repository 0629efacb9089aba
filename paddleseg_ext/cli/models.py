"""`paddleseg models`: what is registered, what it costs, and which configurations use it."""
from __future__ import annotations

import argparse

SUMMARY = 'list registered models with parameters, GMACs and configurations'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('names', nargs='*', metavar='NAME', help='models or backbones; default: those of paddleseg_ext')
    parser.add_argument('--all', action='store_true',
                        help='also list PaddleSeg\'s models and backbones; to have one of them counted, name it')
    parser.add_argument('--input_size', nargs=2, type=int, default=[512, 1024], metavar=('HEIGHT', 'WIDTH'),
                        help='image size for the GMACs')
    parser.add_argument('--format', choices=('table', 'markdown', 'json'), default='table', help='how to print')


def run(args: argparse.Namespace) -> int:
    from paddleseg_ext.engine import catalogue
    rows = catalogue.list_models(args.names, everything=args.all, input_size=tuple(args.input_size))
    print(catalogue.RENDERERS[args.format](rows))
    return 0

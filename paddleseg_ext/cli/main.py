"""`paddleseg VERB …`: finds the verb, checks the environment, runs it, and turns mistakes into one clear message.

Nothing heavy is imported before the arguments are parsed, so `--help` answers at once.
"""
from __future__ import annotations

import argparse
import importlib
import logging
import sys
import warnings
from collections.abc import Sequence

from paddleseg_ext import __version__
from paddleseg_ext.errors import UserError

__all__ = ['main']

VERBS = ('train', 'val', 'predict', 'explain', 'export', 'infer', 'convert', 'config', 'models', 'data', 'doctor')
NEEDS_NO_PADDLE = ('doctor',)
INTERRUPTED = 130
# Starts of Paddle's warnings that say nothing to whoever runs the command.
PADDLE_CHATTER = ('No ccache found', r'\s*Non compatible API', 'When training, we now always track global mean')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 for success, 1 for a failure, 2 for bad usage, 130 when interrupted."""
    args = _parser().parse_args(arguments)
    _start_log()
    for start in PADDLE_CHATTER:
        warnings.filterwarnings('ignore', message=start)
    try:
        if args.verb not in NEEDS_NO_PADDLE:
            from paddleseg_ext import environment
            environment.require_paddle()
            environment.choose_matrix_kernels()
        return args.run(args)
    except UserError as error:
        print(f'paddleseg {args.verb}: error: {error}', file=sys.stderr)
        return 1
    except ImportError as error:
        if not _is_missing_library(error):
            raise
        print(f'paddleseg {args.verb}: error: {error}; a system library is missing: apt-get install -y libgl1 '
              'libglib2.0-0 (OpenCV needs them), or see `paddleseg doctor`.', file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f'paddleseg {args.verb}: {str(stop) or "interrupted"}', file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # NOTE: whoever read our output has gone; closing stderr too keeps Python from complaining at exit.
        sys.stderr.close()
        return 1


def _is_missing_library(error: ImportError) -> bool:
    """Whether a shared library of the system is absent, as libGL and libgthread are from slim containers."""
    return 'cannot open shared object file' in str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='paddleseg', description='Train, test and ship PaddleSeg segmentors, '
                                     'transformers among them, from one YAML file.')
    parser.add_argument('--version', action='version', version=f'paddleseg_ext {__version__}')
    verbs = parser.add_subparsers(dest='verb', metavar='VERB', required=True)
    for name in VERBS:
        module = importlib.import_module(f'paddleseg_ext.cli.{name}')
        verb = verbs.add_parser(name, help=module.SUMMARY, description=module.SUMMARY,
                                formatter_class=_HelpFormatter)
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    return parser


def _start_log() -> None:
    log = logging.getLogger('paddleseg_ext')
    log.setLevel(logging.INFO)
    if not log.handlers:
        handler = _StandardErrorHandler()
        handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', datefmt='%H:%M:%S'))
        log.addHandler(handler)
        log.propagate = False


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults of flags that have one."""

    def _get_help_string(self, action):
        silent = action.default is None or action.default is False or action.default == []
        return action.help if silent else super()._get_help_string(action)


class _StandardErrorHandler(logging.StreamHandler):
    """Writes to whatever `sys.stderr` is at the time, so that a program that replaces it sees the log."""

    def emit(self, record) -> None:
        self.stream = sys.stderr
        super().emit(record)

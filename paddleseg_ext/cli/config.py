"""`paddleseg config`: show the merged YAML, check it, write the JSON schema."""
from __future__ import annotations

import argparse

SUMMARY = 'show a configuration with its bases merged, check it, or write the JSON schema for editors'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The three actions, each with its flags."""
    actions = parser.add_subparsers(dest='action', metavar='{show,check,schema}', required=True)
    show = actions.add_parser('show', help='print the merged YAML')
    _add_config_flags(show, several=False)
    show.add_argument('--with_lines', action='store_true', help='write behind each value where it comes from')
    check = actions.add_parser('check', help='report every problem, one per line: file:line: key: message')
    _add_config_flags(check, several=True)
    check.add_argument('--no_paths', action='store_true', help='do not look whether files and folders exist')
    schema = actions.add_parser('schema', help='print the JSON schema of configurations, for editors')
    schema.add_argument('--save', metavar='FILE', help='write the schema to this file instead')


def _add_config_flags(parser: argparse.ArgumentParser, *, several: bool) -> None:
    parser.add_argument('--config', required=True, nargs='+' if several else None, metavar='YAML',
                        help='a file, or the name of a shipped configuration')
    parser.add_argument('--opts', nargs='*', default=[], metavar='KEY=VALUE',
                        help='changes, for example model.num_classes=11 loss.coef.0=1')


def run(args: argparse.Namespace) -> int:
    """Run one action; 1 where `check` found something.

    Raises:
        UserError: a file that cannot be read, or a wrong `--opts`.
    """
    return {'show': _show, 'check': _check, 'schema': _schema}[args.action](args)


def _show(args: argparse.Namespace) -> int:
    from paddleseg_ext.config.loading import load_config
    from paddleseg_ext.config.rendering import render_yaml
    config = load_config(args.config, opts=args.opts)
    config.require_options()
    print(render_yaml(config.root, with_lines=args.with_lines), end='')
    return 0


def _check(args: argparse.Namespace) -> int:
    from paddleseg_ext.config import check_config, load_config
    from paddleseg_ext.errors import UserError
    failed = False
    for name in args.config:
        try:
            problems = check_config(load_config(name, opts=args.opts), paths=not args.no_paths)
            lines = [str(problem) for problem in problems]
        except UserError as error:
            # NOTE: not left to the caller, because the files after this one are to be checked too.
            lines = [str(error)]
        failed |= bool(lines)
        for line in lines or [f'{name}: OK' if len(args.config) > 1 else 'OK']:
            print(line)
    return int(failed)


def _schema(args: argparse.Namespace) -> int:
    from paddleseg_ext.config.schema import schema_text
    if args.save is None:
        print(schema_text(), end='')
        return 0
    from paddleseg_ext.files import atomic_write_text
    atomic_write_text(args.save, schema_text())
    print(f'wrote {args.save}')
    return 0

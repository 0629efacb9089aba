"""`make docs`: write what the code knows into the documents: tables of README and docs, and the schema for editors.

    python -m scripts.write_docs [--check] [--picture demo/contact_sheet.png]

Text between `<!-- NAME:begin … -->` and `<!-- NAME:end -->` is replaced. With `--check` nothing is written, and it ends
with 1 if something is not up to date. `--picture` takes over the contact sheet of a demo as the README's picture.
"""
from __future__ import annotations

import argparse
import functools
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

from paddleseg_ext.files import atomic_write_text

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / 'docs/pictures/scenes.jpg'


def verbs_table() -> str:
    """The verbs of the command with their one-line summaries."""
    from paddleseg_ext.cli.main import VERBS
    rows = [(f'`paddleseg {verb}`', importlib.import_module(f'paddleseg_ext.cli.{verb}').SUMMARY) for verb in VERBS]
    return '\n'.join(['| verb | what it does |', '| --- | --- |', *(f'| {verb} | {text} |' for verb, text in rows)])


def models_table() -> str:
    """What `paddleseg models --format markdown` prints."""
    from paddleseg_ext.engine import catalogue
    return catalogue.RENDERERS['markdown'](catalogue.list_models())


def visual_transformer_table(name: str) -> Callable[[], str]:
    """What makes a table of `scripts.visual_transformer_costs`."""
    @functools.cache
    def make() -> str:
        return getattr(importlib.import_module('scripts.visual_transformer_costs'), name)()
    return make


# Document: its tables, each with what makes it.
TABLES: dict[str, dict[str, Callable[[], str]]] = {
    'README.md': {'verbs': verbs_table},
    'docs/models.md': {'models': models_table},
    'docs/visual_transformers.md': {
        f'{name}-costs': visual_transformer_table(f'{name}_costs')
        for name in ('fpn', 'part', 'paper', 'stage', 'size', 'module', 'choice')},
}


def fill(text: str, tables: dict[str, str]) -> str:
    """The document with each named table between its markers.

    Raises:
        ValueError: a table has no markers in the document.
    """
    for name, table in tables.items():
        pattern = re.compile(rf'(<!-- {name}:begin[^>]*-->\n).*?(<!-- {name}:end -->)', re.DOTALL)
        text, count = pattern.subn(lambda match, table=table: f'{match[1]}{table}\n{match[2]}', text)
        if count != 1:
            raise ValueError(f'the document has {count} places marked <!-- {name}:begin … --> … <!-- {name}:end -->, '
                             'expected one.')
    return text


def documents() -> dict[Path, str]:
    """Every generated or partly generated file with the content it should have."""
    from paddleseg_ext.config import configs_folder
    from paddleseg_ext.config.schema import schema_text
    texts = {ROOT / name: fill((ROOT / name).read_text(encoding='utf-8'), {key: make() for key, make in tables.items()})
             for name, tables in TABLES.items()}
    return {**texts, configs_folder() / 'schema.json': schema_text()}


def save_picture(source: Path) -> None:
    """Write the README's picture, a small JPEG, from a demo's contact sheet."""
    from PIL import Image

    from paddleseg_ext.files import atomic_path
    with atomic_path(PICTURE) as temporary:
        Image.open(source).convert('RGB').save(temporary, format='JPEG', quality=82, optimize=True)


def main() -> int:
    """Write, or check; 1 where a check found old files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='write nothing; end with 1 if a file is not up to date')
    parser.add_argument('--picture', type=Path, help='contact sheet of a demo, for the README')
    args = parser.parse_args()
    check = args.check
    if args.picture:
        save_picture(args.picture)
    old = [(path, text) for path, text in documents().items()
           if not path.exists() or path.read_text(encoding='utf-8') != text]
    for path, text in old:
        if not check:
            atomic_write_text(path, text)
        print(f'{"not up to date" if check else "written"}: {path.relative_to(ROOT)}')
    if not old:
        print('everything is up to date')
    return int(check and bool(old))


if __name__ == '__main__':
    sys.exit(main())

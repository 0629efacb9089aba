"""A merged tree back as YAML text, on request with the place of every value."""
from __future__ import annotations

import json
import os
from collections.abc import Iterator

import yaml

from paddleseg_ext.config.yaml_tree import Location, Node

__all__ = ['render_yaml']

Line = tuple  # (text, Location)
WIDEST_COLUMN = 70  # longer lines push their comment to the right
LINE_WIDTH = 10_000  # scalars are never folded


def render_yaml(root: Node, *, with_lines: bool = False) -> str:
    """The tree as YAML that loads to the same values.

    Args:
        root: the merged tree.
        with_lines: add `# file:line` behind each value; files are written relative to the current folder.
    """
    lines = list(_mapping(root, 0)) if root.value else [('{}', root.where)]
    width = min(max(len(text) for text, _ in lines), WIDEST_COLUMN)
    if with_lines:
        return ''.join(f'{text:<{width}}  # {_short(where)}\n' for text, where in lines)
    return ''.join(f'{text}\n' for text, _ in lines)


def _short(where: Location) -> str:
    file = os.path.relpath(where.file) if os.path.isabs(where.file) else where.file
    return str(Location(file, where.line)).replace('\n', ' ')


def _mapping(node: Node, depth: int) -> Iterator[Line]:
    for key, child in node.value.items():
        yield from _entry(f'{"  " * depth}{_flow(key)}:', child, depth)


def _entry(head: str, node: Node, depth: int) -> Iterator[Line]:
    """The lines of one value behind its head, which is `key:` or `-`."""
    if isinstance(node.value, dict) and node.value:
        yield head, node.where
        yield from _mapping(node, depth + 1)
    elif isinstance(node.value, list) and _is_nested(node):
        yield head, node.where
        for item in node.value:
            yield from _item(item, depth + 1)
    else:
        yield f'{head} {_flow(node.plain())}', node.where


def _item(node: Node, depth: int) -> Iterator[Line]:
    """The lines of one list item, the first of them with the dash."""
    indent = '  ' * depth
    if not isinstance(node.value, dict) or not node.value:
        yield from _entry(f'{indent}-', node, depth)
        return
    for number, (text, where) in enumerate(_mapping(node, depth + 1)):
        yield (f'{indent}- {text[len(indent) + 2:]}' if number == 0 else text), where


def _is_nested(node: Node) -> bool:
    return any(isinstance(item.value, (dict, list)) and item.value for item in node.value)


def _flow(value: object) -> str:
    # NOTE: safe_dump writes 1e-06 as `1.0e-06`, which every YAML loader reads as a number.
    text = yaml.safe_dump(value, default_flow_style=True, width=LINE_WIDTH, allow_unicode=True).strip()
    text = text[:-len('...')].strip() if text.endswith('\n...') else text
    # Text with line breaks takes several lines in YAML; JSON, which is YAML too, keeps it on one.
    return json.dumps(value, ensure_ascii=False) if '\n' in text else text

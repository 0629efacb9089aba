"""What the command line changes in a merged tree: `--iters`, `--batch_size`, `--learning_rate` and `--opts a.b=c`."""
from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence
from typing import Any

from paddleseg_ext.config.known_keys import accepted_keys
from paddleseg_ext.config.yaml_tree import Location, Node, Problem, dotted, node_of, parse_value
from paddleseg_ext.errors import UserError

__all__ = ['apply_flags', 'apply_opts']


class _RefusedOption(Exception):
    """One option cannot be applied; `key` is the dotted key that is at fault, empty where there is none."""

    def __init__(self, message: str, key: str = '') -> None:
        super().__init__(message)
        self.key = key


def apply_flags(root: Node, *, iters: int | None, batch_size: int | None, learning_rate: float | None) -> None:
    """Set the keys that have a flag of their own.

    Raises:
        UserError: a value that cannot be: iters and batch_size below 1, a learning rate not above 0.
    """
    for name, value in (('iters', iters), ('batch_size', batch_size)):
        if value is None:
            continue
        # NOTE: PaddleSeg tests `if batch_size:`, so that 0 would silently keep the file's value.
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f'--{name} {value}: must be a whole number of at least 1.')
        _set(root, (name,), value, f'--{name} {value}')
    if learning_rate is None:
        return
    if not learning_rate > 0:
        raise UserError(f'--learning_rate {learning_rate}: must be above 0.')
    if not isinstance(root.value.get('lr_scheduler', Node(None, root.where)).value, dict):
        raise UserError('--learning_rate sets lr_scheduler.learning_rate, but the configuration has no lr_scheduler.')
    _set(root, ('lr_scheduler', 'learning_rate'), learning_rate, f'--learning_rate {learning_rate}')


def apply_opts(root: Node, opts: Sequence[str]) -> list[Problem]:
    """Apply 'key.path=value' texts in order, each on top of the ones before.

    A key that the tree has is replaced (a mapping too, whole). A key that it does not have must be one that belongs
    there: a known section, or an argument of the component whose mapping it would join.

    Returns:
        One problem for each option that was left out: no '=', a key that belongs nowhere, a list position out of range,
        a value that is not YAML.
    """
    refused = []
    for text in opts:
        source = f'--opts {text}'
        try:
            path, value = _parse(str(text))
            _set(root, _resolve(root, path.split('.')), value, source)
        except _RefusedOption as refusal:
            refused.append(Problem(source, 0, refusal.key, str(refusal)))
    return refused


def _parse(text: str) -> tuple[str, Any]:
    """The dotted key and the value of 'key.path=value'."""
    path, separator, value = text.partition('=')
    path = path.strip()
    if not separator or not path or not all(path.split('.')):
        raise _RefusedOption('must be key.path=value, for example --opts model.num_classes=11.')
    try:
        return path, _value(value.strip())
    except UserError as error:
        raise _RefusedOption(str(error), path) from error


def _value(text: str) -> Any:
    """YAML first; then what PaddleSeg's `--opts` also took: Python's None, and `0.75,1.0` for a list."""
    value = parse_value(text)
    if not isinstance(value, str) or text[:1] in ('"', "'"):
        return value
    try:
        literal = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return value
    return list(literal) if isinstance(literal, tuple) else literal


def _resolve(root: Node, keys: list[str]) -> tuple:
    """The key path with list positions as numbers, after a check that every step may exist."""
    path: tuple = ()
    for key in keys:
        node = root.at(path)
        if node is not None and isinstance(node.value, list):
            path = (*path, _position(key, node.value, path))
            continue
        if node is not None and node.value is not None and not isinstance(node.value, dict):
            raise _RefusedOption(f'{dotted(path)} is the value {node.value!r} and has no keys inside.', dotted(keys))
        present = node.value if node is not None and node.value else {}
        if key not in present:
            _require_accepted(root, path, key, present)
        path = (*path, key)
    return path


def _position(key: str, items: list, path: tuple) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        known = f'0 to {len(items) - 1}' if items else 'none, it is empty'
        raise _RefusedOption(f'{dotted(path)} is a list, its positions are {known}; got {key!r}.', dotted((*path, key)))
    return int(key)


def _require_accepted(root: Node, path: tuple, key: str, present: dict) -> None:
    accepted = accepted_keys(root.plain(), path)
    if accepted is None or key in accepted:
        return
    names = [*accepted, *present]
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    hint = f', did you mean {dotted((*path, near[0]))}?' if near else f'; known there: {", ".join(sorted(set(names)))}.'
    raise _RefusedOption(f'unknown key{hint}', dotted((*path, key)))


def _set(root: Node, path: tuple, value: Any, source: str) -> None:
    where = Location(source)
    node = root
    for key in path[:-1]:
        if isinstance(node.value, dict) and not isinstance(getattr(node.value.get(key), 'value', None), (dict, list)):
            node.value[key] = Node({}, where)
        node = node.value[key]
    node.value[path[-1]] = node_of(value, where)

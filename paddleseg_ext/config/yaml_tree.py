"""YAML text in, a tree whose every value knows the file and line it came from; nothing here knows PaddleSeg."""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from paddleseg_ext.errors import UserError

__all__ = ['Location', 'Node', 'Problem', 'dotted', 'node_of', 'parse_value', 'parse_yaml']

KeyPath = tuple  # of str (mapping keys) and int (list positions), outermost first


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also takes `4e-4` for the number that it is."""


# NOTE: PyYAML follows YAML 1.1, where a float needs a dot *and* a signed exponent, so `4e-4` and `1.0e5` load as text
# and PaddleSeg fails far from the cause. This pattern is YAML 1.2's; every other type stays as in YAML 1.1, because
# users' files were written for PaddleSeg's loader.
_Loader.add_implicit_resolver('tag:yaml.org,2002:float',
                              re.compile(r'^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$'), list('-+.0123456789'))


@dataclass(frozen=True)
class Location:
    """Where a value stands: a file (or the flag that set it) and a line counted from 1; line 0 means no line."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f'{self.file}:{self.line}' if self.line else self.file


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration. `line` is 0 where the value came from a flag."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        where = Location(self.file, self.line)
        return f'{where}: {self.key}: {self.message}' if self.key else f'{where}: {self.message}'


@dataclass
class Node:
    """A value with its place. `value` is a dict of Nodes, a list of Nodes, or a scalar; `where` is its key's line."""

    value: Any
    where: Location

    def plain(self) -> Any:
        """The value as ordinary dicts, lists and scalars: fresh copies at every call."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def walk(self, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
        """This node and everything below it, with the key paths, in the order of the file."""
        yield path, self
        children = self.value.items() if isinstance(self.value, dict) else \
            enumerate(self.value) if isinstance(self.value, list) else ()
        for key, child in children:
            yield from child.walk((*path, key))

    def at(self, path: KeyPath) -> Node | None:
        """The node at a key path, or None."""
        node = self
        for key in path:
            inside = isinstance(node.value, dict) and key in node.value or \
                isinstance(node.value, list) and isinstance(key, int) and -1 < key < len(node.value)
            if not inside:
                return None
            node = node.value[key]
        return node

    def nearest(self, path: KeyPath) -> Node:
        """The node at a key path, or its closest parent that exists: where a missing key is reported."""
        path = tuple(path)
        while self.at(path) is None:
            path = path[:-1]
        return self.at(path)


def dotted(path: KeyPath) -> str:
    """A key path as `--opts` spells it: ('loss', 'coef', 0) is 'loss.coef.0'."""
    return '.'.join(str(key) for key in path)


def node_of(value: Any, where: Location) -> Node:
    """Wrap plain dicts, lists and scalars, all with one place."""
    if isinstance(value, dict):
        return Node({str(key): node_of(child, where) for key, child in value.items()}, where)
    if isinstance(value, (list, tuple)):
        return Node([node_of(child, where) for child in value], where)
    return Node(value, where)


def parse_yaml(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """Read one YAML document.

    Returns:
        The tree (None for an empty document) and the problems that do not stop the reading: keys written twice (the
        last one counts, as in PyYAML) and keys that are not text.

    Raises:
        UserError: broken syntax or a tag that the safe loader refuses; the message gives file, line and column.
    """
    loader = None
    try:
        loader = _Loader(text)
        document = loader.get_single_node()
        if document is None:
            return None, []
        builder = _Builder(loader, file)
        return builder.build(document, Location(file, document.start_mark.line + 1), ()), builder.problems
    except yaml.YAMLError as error:
        raise UserError(_syntax_message(error, file)) from error
    finally:
        if loader is not None:
            loader.dispose()


def parse_value(text: str) -> Any:
    """A value given on the command line, read as YAML reads it: '4e-4' is a number, '[1, 2]' a list.

    Raises:
        UserError: broken syntax.
    """
    node, _ = parse_yaml(text, 'value')
    return None if node is None else node.plain()


def _syntax_message(error: yaml.YAMLError, file: str) -> str:
    mark = getattr(error, 'problem_mark', None) or getattr(error, 'context_mark', None)
    said = ', '.join(part for part in (getattr(error, 'context', None), getattr(error, 'problem', None)) if part)
    if mark is None:
        return f'{file}: not YAML: {said or error}'
    hint = '; indent with spaces, YAML allows no tabs' if "'\\t'" in said else ''
    hint = '; Python objects are refused in a configuration' if 'python/' in said else hint
    return f'{file}:{mark.line + 1}:{mark.column + 1}: not YAML: {said}{hint}'


class _Builder:
    """Turns PyYAML's node graph into Nodes, collecting what is odd but readable."""

    def __init__(self, loader: yaml.SafeLoader, file: str) -> None:
        self.loader = loader
        self.file = file
        self.problems: list[Problem] = []
        self.open_nodes: set[int] = set()

    def build(self, node: yaml.Node, where: Location, path: KeyPath) -> Node:
        if id(node) in self.open_nodes:
            raise yaml.constructor.ConstructorError(None, None, 'an alias that contains itself', node.start_mark)
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return Node(self._mapping(node, path), where)
            if isinstance(node, yaml.SequenceNode):
                return Node([self.build(item, self._line(item), (*path, index))
                             for index, item in enumerate(node.value)], where)
            return Node(self.loader.construct_object(node, deep=True), where)
        finally:
            self.open_nodes.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Node]:
        self._report_duplicates(node, path)
        self.loader.flatten_mapping(node)
        entries = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            entries.pop(key, None)  # so that the order is that of the value which counts
            entries[key] = self.build(value_node, self._line(key_node), (*path, key))
        return entries

    def _key(self, node: yaml.Node, path: KeyPath) -> str:
        value = node.value if not isinstance(node, yaml.ScalarNode) else self.loader.construct_object(node)
        if isinstance(value, str):
            return value
        text = node.value if isinstance(node, yaml.ScalarNode) else '?'
        self._report(node, (*path, text), f'a key must be text, and YAML reads this one as {type(value).__name__}; '
                                          'put it in quotes')
        return text

    def _report_duplicates(self, node: yaml.MappingNode, path: KeyPath) -> None:
        first_lines: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key, str) or key_node.tag.endswith(':merge'):
                continue
            if key in first_lines:
                self._report(key_node, (*path, key), f'written twice, first in line {first_lines[key]}; '
                                                     'only this last one would count, remove one')
            first_lines.setdefault(key, line)

    def _report(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(self.file, node.start_mark.line + 1, dotted(path), message))

    def _line(self, node: yaml.Node) -> Location:
        return Location(self.file, node.start_mark.line + 1)

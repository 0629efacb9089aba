"""A configuration file with its bases and overrides merged into one tree."""
from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paddleseg_ext.config.overrides import apply_flags, apply_opts
from paddleseg_ext.config.yaml_tree import Node, Problem, parse_yaml
from paddleseg_ext.errors import UserError

__all__ = ['Config', 'configs_folder', 'find_config', 'load_config', 'shipped_configs']

BASE_KEY = '_base_'
INHERIT_KEY = '_inherited_'
SUFFIXES = ('.yml', '.yaml')


@dataclass
class Config:
    """A merged configuration.

    Attributes:
        path: the file that was named.
        root: the tree with the place of every value.
        problems: what was found while reading (duplicate keys …); `check_config` reports it with the rest.
        refused: the options of `--opts` that could not be applied; `check_config` reports them with the rest, and
            without it `require_options` does.
        bases: for every file that has bases, all files below it, as `Location.file` spells them.
    """

    path: Path
    root: Node
    problems: list[Problem] = field(default_factory=list)
    refused: list[Problem] = field(default_factory=list)
    bases: dict[str, set[str]] = field(default_factory=dict)

    @property
    def tree(self) -> dict:
        """The merged tree as plain dicts and lists, a fresh copy at every call."""
        return self.root.plain()

    def location(self, key_path: tuple) -> tuple[str, int]:
        """(file, line) where the final value of a key stands; for a key that is absent, its closest parent's.

        The line is 0 where a flag gave the value; the file is then the flag's text.
        """
        where = self.root.nearest(key_path).where
        return where.file, where.line

    def require_options(self) -> None:
        """Raise one UserError that lists all options of `--opts` that could not be applied, if there are any."""
        if self.refused:
            raise UserError('\n'.join(str(problem) for problem in self.refused))


def configs_folder() -> Path:
    """The folder of the shipped configurations: `paddleseg_ext/configs` in a wheel, `configs` in a checkout."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / 'configs'
    return shipped if shipped.is_dir() else package.parent / 'configs'


def shipped_configs() -> dict[str, Path]:
    """Every shipped configuration that can be named without its path, by its stem; bases (`_base_/`) included."""
    files = [path for suffix in SUFFIXES for path in configs_folder().rglob(f'*{suffix}')]
    return {path.stem: path for path in sorted(files)}


def find_config(name: str | Path) -> Path:
    """The file that a name stands for: a path, or the name of a shipped configuration, with or without `.yml`.

    Raises:
        UserError: nothing of that name; the message gives the nearest shipped names.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    for suffix in SUFFIXES:
        if path.suffix not in SUFFIXES and Path(f'{path}{suffix}').is_file():
            return Path(f'{path}{suffix}')
    shipped = shipped_configs()
    stem = path.stem if path.suffix in SUFFIXES else path.name
    if stem in shipped and _names_shipped(path, shipped[stem]):
        return shipped[stem]
    if path.is_dir():
        raise UserError(f'{name} is a folder; name one configuration file in it.')
    near = difflib.get_close_matches(stem, shipped, n=3, cutoff=0.5)
    hint = f'; the nearest shipped ones are {", ".join(near)}' if near else ''
    raise UserError(f'No configuration {name}: neither a file (looked from {os.getcwd()}) nor a shipped name{hint}.')


def _names_shipped(asked: Path, shipped: Path) -> bool:
    """Whether a name that may carry folders (`configs/rtformer/x.yml`) means this shipped file."""
    folders = asked.parent.parts
    own = (configs_folder().name, *shipped.relative_to(configs_folder()).parent.parts)
    return not asked.is_absolute() and own[len(own) - len(folders):] == folders


def load_config(name_or_path: str | Path, *, opts: Sequence[str] = (), iters: int | None = None,
                batch_size: int | None = None, learning_rate: float | None = None) -> Config:
    """Read a configuration, its bases, and the overrides of the command line.

    Args:
        name_or_path: what `find_config` takes.
        opts: 'key.path=value' texts; list positions are numbers ('loss.coef.0=1'), values are YAML.
        iters, batch_size: replace the keys of that name; at least 1.
        learning_rate: replaces lr_scheduler.learning_rate; above 0.

    Returns:
        The merged configuration. Nothing in it is checked against the components yet (`check_config` does that), so
        Paddle is not imported, except to judge a key of `opts` that the files do not have. Options with an unknown key
        or without a proper value are left out of the tree and kept in `refused`: `check_config`, `require_valid` and
        `make_builder` refuse them, who reads the tree only calls `require_options`.

    Raises:
        UserError: a missing, empty or broken file, bases in a circle, a value that iters and the like cannot have.
    """
    path = find_config(name_or_path)
    problems: list[Problem] = []
    below: dict[str, set[str]] = {}
    root = _read_merged(path, chain=(), problems=problems, below=below)
    _drop_inherit_marks(root)
    apply_flags(root, iters=iters, batch_size=batch_size, learning_rate=learning_rate)
    return Config(path=path, root=root, problems=problems, refused=apply_opts(root, opts), bases=below)


def _read_merged(path: Path, *, chain: tuple[Path, ...], problems: list[Problem], below: dict[str, set[str]]) -> Node:
    own = path.resolve()
    if own in chain:
        circle = ' -> '.join(file.name for file in (*chain[chain.index(own):], own))
        raise UserError(f'{path}: {BASE_KEY} goes round in a circle: {circle}; remove one of these lines.')
    root = _read_file(path, problems)
    bases = root.value.pop(BASE_KEY, None)
    if bases is None:
        return root
    merged = None
    for base in _base_files(bases, path):
        tree = _read_merged(base, chain=(*chain, own), problems=problems, below=below)
        below.setdefault(str(path), set()).update({str(base)}, below.get(str(base), ()))
        merged = tree if merged is None else merge(merged, tree)
    # NOTE: all bases are merged with one another before the child is, because PaddleSeg's order (the child into the
    # first base, that into the second) lets `_inherited_: False` drop only the first base's section. Without that
    # key both orders give the same tree, the first base winning over the second.
    return root if merged is None else merge(root, merged)


def _read_file(path: Path, problems: list[Problem]) -> Node:
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: cannot be read as UTF-8 text: {error}') from error
    root, found = parse_yaml(text, str(path))
    if root is None:
        raise UserError(f'{path}: the file is empty; a configuration is a mapping of keys such as model and iters.')
    if not isinstance(root.value, dict):
        raise UserError(f'{path}:{root.where.line}: a configuration is a mapping of keys to values, '
                        f'this file holds {_kind(root.value)}.')
    problems.extend(found)
    return root


def _kind(value: object) -> str:
    return 'a list' if isinstance(value, list) else f'only the value {value!r}'


def _base_files(bases: Node, child: Path) -> list[Path]:
    entries = bases.value if isinstance(bases.value, list) else [bases]
    files = []
    for entry in entries:
        if not isinstance(entry.value, str) or not entry.value:
            raise UserError(f'{entry.where}: {BASE_KEY}: must be a file name or a list of them, got {entry.plain()!r}.')
        beside = child.parent / entry.value
        if beside.is_file():
            files.append(Path(os.path.normpath(beside)))
            continue
        try:
            files.append(find_config(entry.value))
        except UserError as error:
            raise UserError(f'{entry.where}: {BASE_KEY}: there is no {beside}. {error}') from error
    return files


def merge(child: Node, base: Node) -> Node:
    """The child's values over the base's: mappings merge key by key, everything else (lists too) is replaced.

    A mapping with `_inherited_: False` replaces the base's mapping whole.
    """
    inherit = child.value.get(INHERIT_KEY)
    if inherit is not None and not inherit.value:
        return child
    entries = dict(base.value)
    for key, value in child.value.items():
        both = isinstance(value.value, dict) and key in base.value and isinstance(base.value[key].value, dict)
        entries[key] = merge(value, base.value[key]) if both else value
    return Node(entries, child.where)


def _drop_inherit_marks(root: Node) -> None:
    for _, node in root.walk():
        if isinstance(node.value, dict):
            node.value.pop(INHERIT_KEY, None)

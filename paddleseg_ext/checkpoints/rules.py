"""Rules that turn the names of a checkpoint into ours, as data.

A template is a name in which `{s}` stands for one component (what is between dots) and `{tail}` for one or more of
them, as in `blocks.{s}.{b}.mlp.fc1.{p}`. A format is a table of such rules; applying it consumes the checkpoint, and
what no rule takes is left in it, to be reported.
"""
from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Union

import numpy as np

from paddleseg_ext.errors import UserError

__all__ = ['Drop', 'Format', 'Rename', 'Replacement', 'Rule', 'Split', 'Translation', 'bears', 'is_of', 'matches',
           'translate', 'under']


@dataclass(frozen=True)
class Rename:
    """The array called `source` there is called `target` here."""

    source: str
    target: str


@dataclass(frozen=True)
class Split:
    """One array there is several here, cut along its first axis or its last (-1); each target comes with its share."""

    source: str
    targets: tuple[tuple[str, int], ...]
    axis: int = 0


@dataclass(frozen=True)
class Drop:
    """An array there that has no place here, and why."""

    source: str
    reason: str


Rule = Union[Rename, Split, Drop]


@dataclass(frozen=True)
class Replacement:
    """A part of some of our models that stands where such a checkpoint has others.

    Attributes:
        part: template of our names of it.
        places: templates of the names in whose place it stands: the checkpoint's are dropped, the model's start fresh.
        unused: why the checkpoint's are dropped.
        fresh: why the part and what stands in those places start fresh.
    """

    part: str
    places: tuple[str, ...]
    unused: str
    fresh: str


@dataclass(frozen=True)
class Format:
    """The names that one kind of checkpoint has.

    Attributes:
        name: for people.
        layout: 'torch' or 'paddle': how linear weights lie, and what batch norm calls its statistics.
        marks: templates that all have a name in every checkpoint of this format, and together in no other that has no
            name of `unlike`.
        rules: the first that fits a name is applied. Targets are names of a whole model: those of a backbone begin with
            `backbone.`.
        beside: beginnings of the names that are not the backbone's, there; what is left under them is dropped where
            only a backbone is loaded.
        absent: templates of our names that such checkpoints never have, with the reason; these parts start fresh.
        spare: beginnings of our names that only some models have; without such a part they are dropped.
        settings: arguments of our backbone that make its numbers those of the source.
        unlike: templates that have no name in any checkpoint of this format.
        replaced: parts of our models that stand where the checkpoint has others.
        remedy: what to say beside what does not fit; empty for nothing.
    """

    name: str
    layout: str
    marks: tuple[str, ...]
    rules: tuple[Rule, ...]
    beside: tuple[str, ...] = ()
    absent: tuple[tuple[str, str], ...] = ()
    spare: tuple[str, ...] = ()
    settings: tuple[tuple[str, object], ...] = ()
    unlike: tuple[str, ...] = ()
    replaced: tuple[Replacement, ...] = ()
    remedy: str = ''


@dataclass
class Translation:
    """A checkpoint under our names, still in the layout of its source.

    Attributes:
        arrays: by our names.
        origins: the source's name for each of ours.
        dropped: reasons, each with the source's names.
        unmatched: the source's names that no rule takes.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)

    def drop(self, name: str, reason: str) -> None:
        """Note that the source's `name` is not used, and why."""
        self.dropped.setdefault(reason, []).append(name)

    def discard(self, name: str, reason: str) -> None:
        """Drop an array that already has our `name`."""
        del self.arrays[name]
        self.drop(self.origins.pop(name), reason)


# What PyTorch's batch norm calls its statistics, as the last component, and what Paddle's does.
BATCH_NORM = {'running_mean': '_mean', 'running_var': '_variance'}
UNUSED_COUNTER = 'num_batches_tracked'


def under(prefix: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The same rules for a source whose names begin with `prefix`."""
    return tuple(type(rule)(prefix + rule.source, *list(vars(rule).values())[1:]) for rule in rules)


def matches(template: str, name: str) -> dict[str, str] | None:
    """What each placeholder of `template` stands for in `name`; None where it does not fit."""
    found = _pattern(template).fullmatch(name)
    return None if found is None else found.groupdict()


def bears(names: Collection[str], marks: Iterable[str]) -> bool:
    """Whether every one of the templates has a name."""
    return all(any(matches(mark, name) is not None for name in names) for mark in marks)


def is_of(form: Format, names: Collection[str]) -> bool:
    """Whether a checkpoint with these names is of this format, as far as names tell."""
    return bears(names, form.marks) and not any(bears(names, [template]) for template in form.unlike)


@functools.cache
def _pattern(template: str) -> re.Pattern:
    pieces = re.split(r'\{(\w+)\}', template)
    fixed, holders = pieces[::2], pieces[1::2]
    text = re.escape(fixed[0])
    for holder, piece in zip(holders, fixed[1:]):
        text += f'(?P<{holder}>{".+" if holder == "tail" else "[^.]+"})' + re.escape(piece)
    return re.compile(text)


def translate(source: Mapping[str, np.ndarray], form: Format) -> Translation:
    """Apply the rules of `form` to every name of `source`.

    Raises:
        UserError: two names of the source become one of ours, or an array cannot be split as the rule says.
    """
    result = Translation()
    for name, array in source.items():
        if form.layout == 'torch' and name.split('.')[-1] == UNUSED_COUNTER:
            result.drop(name, 'PyTorch\'s counter of batches, which nothing reads')
            continue
        fitting = ((rule, matches(rule.source, name)) for rule in form.rules)
        rule, parts = next(((rule, parts) for rule, parts in fitting if parts is not None), (None, {}))
        if rule is None:
            result.unmatched.append(name)
        elif isinstance(rule, Drop):
            result.drop(name, rule.reason)
        else:
            for target, piece in _pieces(rule, name, array):
                _add(result, _our_name(target.format(**parts), form.layout), name, piece)
    return result


def _pieces(rule: Rename | Split, name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    if isinstance(rule, Rename):
        return [(rule.target, array)]
    whole = sum(share for _, share in rule.targets)
    if not isinstance(array, np.ndarray) or array.ndim == 0 or array.shape[rule.axis] % whole:
        raise UserError(f'{name} has the shape {list(np.shape(array))}, but in this format it has {whole} equal '
                        f'parts along its {"last" if rule.axis else "first"} axis; the file is damaged or of another '
                        'model.')
    ends = np.cumsum([share * array.shape[rule.axis] // whole for _, share in rule.targets])
    return [(target, piece) for (target, _), piece in zip(rule.targets, np.split(array, ends[:-1], axis=rule.axis))]


def _our_name(name: str, layout: str) -> str:
    *path, last = name.split('.')
    return '.'.join([*path, BATCH_NORM.get(last, last)]) if layout == 'torch' else name


def _add(result: Translation, target: str, name: str, array: np.ndarray) -> None:
    if target in result.arrays:
        raise UserError(f'{name} and {result.origins[target]} both become {target}: the file mixes two models.')
    result.arrays[target] = array
    result.origins[target] = name

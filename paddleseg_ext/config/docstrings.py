"""What docstrings and annotations say about arguments: kinds of value, and one sentence."""
from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

__all__ = ['ArgumentDoc', 'annotation_kinds', 'argument_docs', 'summary_line']

# How PaddleSeg's docstrings and our annotations spell the kinds. A word that is not here makes a type unknown, and an
# unknown type is never complained about.
KINDS = {'int': 'int', 'integer': 'int', 'int64': 'int', 'float': 'float', 'bool': 'bool', 'boolean': 'bool',
         'str': 'str', 'string': 'str', 'list': 'list', 'tuple': 'list', 'sequence': 'list', 'dict': 'dict',
         'mapping': 'dict', 'none': 'none'}
FILLERS = ('optional', 'required', '')
LONGEST_DESCRIPTION = 200


@dataclass(frozen=True)
class ArgumentDoc:
    """One argument in a docstring: its kinds (None where the type is not told or not a YAML type) and its sentence."""

    kinds: frozenset | None
    description: str


def summary_line(text: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    first = re.split(r'\n\s*\n|\n\s*Args:', (text or '').strip(), maxsplit=1)[0]
    return _sentence(first)


def argument_docs(text: str | None, names: list[str]) -> dict[str, ArgumentDoc]:
    """The entries `name (type): words` or `name: words` of a docstring, for the given argument names."""
    docs: dict[str, ArgumentDoc] = {}
    text = _argument_section(text or '')
    matches = list(re.finditer(r'^[ \t]*(\w+)[ \t]*(?:\(([^:\n]*)\))?[ \t]*:(.*)$', text, re.MULTILINE))
    for index, match in enumerate(matches):
        name, types, words = match.groups()
        if name not in names or name in docs:
            continue
        end = matches[index + 1].start() if index + 1 < len(matches) else len(text)
        rest = re.split(r'\n\s*\n', text[match.end():end], maxsplit=1)[0]
        docs[name] = ArgumentDoc(_kinds(types), _sentence(words + rest))
    return docs


def _argument_section(text: str) -> str:
    parts = re.split(r'^[ \t]*(?:Args|Arguments|Parameters)[ \t]*:.*$', text, maxsplit=1, flags=re.MULTILINE)
    after = parts[1] if len(parts) == 2 else ''
    return re.split(r'^[ \t]*(?:Raises|Returns?|Examples?|An example|Shape)\b.*$', after, maxsplit=1,
                    flags=re.MULTILINE)[0]


def annotation_kinds(annotation: Any) -> frozenset | None:
    """The kinds of an annotation such as 'int | None', 'tuple[int, int]' or typing.Optional[float]."""
    if annotation is inspect.Parameter.empty:
        return None
    text = annotation if isinstance(annotation, str) else getattr(annotation, '__name__', None) \
        if inspect.isclass(annotation) and not hasattr(annotation, '__args__') else str(annotation)
    text = text.replace('typing.', '').replace('collections.abc.', '').replace('NoneType', 'None')
    optional = re.fullmatch(r'Optional\[(.*)\]', text)
    union = re.fullmatch(r'Union\[(.*)\]', text)
    if optional or union:
        text = f'{optional.group(1)}|None' if optional else union.group(1).replace(',', '|')
    while re.search(r'\[[^\[\]]*\]', text):
        text = re.sub(r'\[[^\[\]]*\]', '', text)
    return _kinds(text)


def _kinds(text: str | None) -> frozenset | None:
    if text is None:
        return None
    text = re.split(r'\bdefaults?\b', text.lower(), maxsplit=1)[0]
    words = [word.strip(' .`') for word in re.split(r'[|,/]|\bor\b|(?<=\w)\.\s', text)]
    kinds = [KINDS.get(word) for word in words if word not in FILLERS]
    return frozenset(kinds) if kinds and None not in kinds else None


def _sentence(text: str) -> str:
    line = ' '.join(text.split())
    line = re.split(r'(?<=[a-z0-9)`\'"])\. (?=[A-Z])', line, maxsplit=1)[0]
    return line if len(line) <= LONGEST_DESCRIPTION else f'{line[:LONGEST_DESCRIPTION - 1]}…'

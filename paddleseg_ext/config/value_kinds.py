"""Whether a YAML value is of a kind that an argument takes, and how to say so."""
from __future__ import annotations

from typing import Any

from paddleseg_ext.config.known_keys import ALSO_ACCEPTED
from paddleseg_ext.config.signatures import REQUIRED, Argument

__all__ = ['expected_kinds', 'kind_of', 'kind_problem', 'wants_class']

NAMES = {'int': 'a whole number', 'float': 'a number', 'bool': 'true or false', 'str': 'text', 'list': 'a list',
         'dict': 'a mapping', 'none': 'null'}
ORDER = tuple(NAMES)


def kind_of(value: Any) -> str | None:
    """The kind of a value; None for what YAML cannot hold, such as a class."""
    for types, kind in ((bool, 'bool'), (int, 'int'), (float, 'float'), (str, 'str'), ((list, tuple), 'list'),
                        (dict, 'dict'), (type(None), 'none')):
        if isinstance(value, types):
            return kind
    return None


def wants_class(argument: Argument) -> bool:
    """Whether the argument's default is a Python class or function, so that no YAML value fits it."""
    return argument.default is not REQUIRED and callable(argument.default)


def expected_kinds(argument: Argument) -> frozenset | None:
    """The kinds that an argument takes, from its documentation and its default together; None where neither tells."""
    documented = argument.kinds or frozenset()
    if documented:
        documented |= frozenset(ALSO_ACCEPTED.get(argument.name, ()))
    if argument.default is REQUIRED or argument.default is None:
        allowed = documented | ({'none'} if argument.default is None else set())
        return frozenset(allowed) if documented else None
    of_default = kind_of(argument.default)
    if of_default is None:
        return documented or None
    # NOTE: a whole number as the default of an undocumented argument says little (mlp_ratio=4 takes 2.5), so any
    # number passes there.
    loose = {'float'} if of_default == 'int' and not documented else set()
    return documented | {of_default} | loose


def kind_problem(value: Any, kinds: frozenset | tuple | None) -> str | None:
    """What is wrong with a value where certain kinds are expected, or None.

    A whole number passes as a number, and 0 and 1 as false and true.
    """
    kind = kind_of(value)
    if kinds is None or kind in kinds or kind is None:
        return None
    if kind == 'int' and ('float' in kinds or 'bool' in kinds and value in (0, 1)):
        return None
    wanted = ' or '.join(NAMES[name] for name in ORDER if name in kinds)
    return f'must be {wanted}, got {_shown(value, kind)}'


def _shown(value: Any, kind: str) -> str:
    text = {'none': 'null', 'bool': str(value).lower(), 'str': f'the text {value!r}'}.get(kind, repr(value))
    article = {'list': 'the list ', 'dict': 'the mapping '}.get(kind, '')
    return article + (text if len(text) <= 80 else f'{text[:77]}...')

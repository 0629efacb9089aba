"""What each registered component accepts, read from its signature, its docstring and, for `**kwargs`, its source."""
from __future__ import annotations

import difflib
import functools
import inspect
from dataclasses import dataclass, field
from typing import Any, Callable

from paddleseg_ext.config.docstrings import annotation_kinds, argument_docs, summary_line
from paddleseg_ext.config.forwarding import forwarded_calls

__all__ = ['REQUIRED', 'Argument', 'Signature', 'component_signature', 'find_component', 'nearest_components',
           'schedule_signature', 'schedules', 'signature_of']

REQUIRED = inspect.Parameter.empty

# Arguments that cannot come from YAML: they need a Python function.
SCHEDULES_OF_FUNCTIONS = ('LambdaDecay', 'MultiplicativeDecay', 'LinearWarmup')


@dataclass(frozen=True)
class Argument:
    """One argument: its default (REQUIRED where it has none), the kinds of value its documentation names (None where
    that tells nothing), the words it is limited to, and the first sentence about it."""

    name: str
    default: Any = REQUIRED
    kinds: frozenset | None = None
    choices: tuple = ()
    description: str = ''

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@dataclass(frozen=True)
class Signature:
    """The arguments of a component.

    `open` says that it takes keys which cannot be known; `fixed` are the arguments that a function such as
    `HRNet_W18` sets itself, so that YAML cannot.
    """

    name: str
    arguments: dict = field(default_factory=dict)
    open: bool = False
    fixed: frozenset = frozenset()
    summary: str = ''


def find_component(name: str) -> tuple[str, Callable] | None:
    """(kind, class or function) of a registered name, looked up in PaddleSeg's order; None where there is none."""
    for kind, components in _registered().items():
        if name in components:
            return kind, components[name]
    return None


def nearest_components(name: str, kind: str | None) -> list[str]:
    """Up to three registered names close to one, of one kind or of any; letters' case and `-`/`_` count little."""
    names = [other for each, components in _registered().items() if kind in (None, each) for other in components]
    by_folded = {_folded(other): other for other in names}
    if _folded(name) in by_folded:
        return [by_folded[_folded(name)]]
    near = difflib.get_close_matches(_folded(name), by_folded, n=3, cutoff=0.6)
    ratios = {other: difflib.SequenceMatcher(None, other, _folded(name)).ratio() for other in near}
    return [by_folded[other] for other in near if ratios[other] > max(ratios.values()) - 0.1]


def component_signature(name: str) -> Signature | None:
    """The signature of a registered component, None for an unknown name."""
    found = find_component(name) if isinstance(name, str) else None
    return None if found is None else signature_of(found[1])


def schedules() -> dict[str, type]:
    """The learning rate schedules that YAML can name: classes of paddle.optimizer.lr that need no Python function."""
    from paddle.optimizer import lr
    return {name: value for name, value in vars(lr).items() if name not in SCHEDULES_OF_FUNCTIONS
            and inspect.isclass(value) and issubclass(value, lr.LRScheduler) and value is not lr.LRScheduler}


def schedule_signature(name: str) -> Signature | None:
    """The signature of a learning rate schedule, None for an unknown name."""
    found = schedules().get(name) if isinstance(name, str) else None
    return None if found is None else signature_of(found)


@functools.cache
def signature_of(component: Callable) -> Signature:
    """The signature of a class or function; `**kwargs` is followed to where the source passes it on."""
    function, owner = (_constructor(component), component) if inspect.isclass(component) else (component, None)
    return _signature(function, owner, component)


def _registered() -> dict[str, dict[str, Callable]]:
    import paddleseg_ext.components  # noqa: F401  NOTE: imported for its effect, it registers every component
    from paddleseg_ext.registry import KINDS, components
    return {kind: components(kind) for kind in KINDS}


def _folded(name: str) -> str:
    return name.lower().replace('_', '').replace('-', '')


def _constructor(owner: type) -> Callable | None:
    return next((vars(base)['__init__'] for base in owner.__mro__ if '__init__' in vars(base)), None)


def _signature(function: Callable | None, owner: type | None, component: Callable) -> Signature:
    name = component.__name__
    summary = summary_line(inspect.getdoc(component) if component.__doc__ else None)
    if function is None or not inspect.isfunction(function):
        return Signature(name, open=function is not object.__init__, summary=summary)
    parameters = list(inspect.signature(function).parameters.values())[1 if owner else 0:]
    docs = _documents(function, owner, [each.name for each in parameters])
    arguments = {each.name: _argument(each, docs.get(each.name)) for each in parameters
                 if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
    own = Signature(name, arguments, summary=summary)
    rest = next((each.name for each in parameters if each.kind is each.VAR_KEYWORD), None)
    return own if rest is None else _with_forwarded(own, function, owner, rest)


def _documents(function: Callable, owner: type | None, names: list[str]) -> dict:
    texts = [function.__doc__, *(base.__doc__ for base in (owner.__mro__ if owner else ()))]
    docs: dict = {}
    for text in texts:
        for name, doc in argument_docs(text, names).items():
            docs.setdefault(name, doc)
    return docs


def _argument(parameter: inspect.Parameter, doc: Any) -> Argument:
    kinds = annotation_kinds(parameter.annotation)
    if kinds is None and doc is not None:
        kinds = doc.kinds
    return Argument(parameter.name, parameter.default, kinds, description=doc.description if doc else '')


def _with_forwarded(own: Signature, function: Callable, owner: type | None, rest: str) -> Signature:
    calls = forwarded_calls(function, owner, rest)
    if calls is None:
        return Signature(own.name, own.arguments, open=True, summary=own.summary)
    arguments, fixed, is_open, summary = dict(own.arguments), set(own.fixed), False, own.summary
    for call in calls:
        inner = _signature(call.function, call.owner, call.owner or call.function)
        taken = set(list(inner.arguments)[:call.positional]) | call.keywords
        fixed |= (taken | inner.fixed) - set(arguments)
        is_open |= inner.open
        summary = summary or inner.summary
        for name, argument in inner.arguments.items():
            if name not in taken:
                arguments.setdefault(name, argument)
    return Signature(own.name, arguments, is_open, frozenset(fixed - set(arguments)), summary)

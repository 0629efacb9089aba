"""Where a function passes its `**kwargs` on to, read from its source.

PaddleSeg registers about a hundred functions such as `def HRNet_W18(**kwargs): return HRNet(stage1_num_channels=[64],
…, **kwargs)`. Their real arguments are those of the call inside, less the ones that the call sets itself.
"""
from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any, Callable

__all__ = ['ForwardedCall', 'forwarded_calls']


@dataclass(frozen=True)
class ForwardedCall:
    """One call that receives the `**kwargs`: the function called (the constructor, where `owner` is a class), how many
    arguments it gets by position (self not counted), and the keywords that the call sets."""

    function: Callable
    owner: type | None
    positional: int
    keywords: frozenset


def forwarded_calls(function: Callable, owner: type | None, rest: str) -> list[ForwardedCall] | None:
    """The calls that get all of `**rest`.

    Args:
        function: a plain function; for a constructor, the `__init__`.
        owner: the class whose object the constructor makes, None for a function.
        rest: the name of the `**` parameter.

    Returns:
        None where the source does not tell: it is not there, `rest` is used in another way or not at all, or what
        is called cannot be found out.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    uses = sum(isinstance(node, ast.Name) and node.id == rest for node in ast.walk(tree))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _passes_on(node, rest)]
    if not calls or uses != len(calls):
        return None
    found = [_forwarded(call, function, owner) for call in calls]
    return None if None in found else found


def _passes_on(call: ast.Call, rest: str) -> bool:
    return any(keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == rest
               for keyword in call.keywords)


def _forwarded(call: ast.Call, function: Callable, owner: type | None) -> ForwardedCall | None:
    target, target_owner = _parent_constructor(call.func, function, owner), owner
    if target is None:
        target_owner = None
        target = _look_up(call.func, function)
        if inspect.isclass(target):
            target, target_owner = target.__init__, target
    if not inspect.isfunction(target):
        return None
    positional = sum(not isinstance(argument, ast.Starred) for argument in call.args)
    keywords = frozenset(keyword.arg for keyword in call.keywords if keyword.arg)
    return ForwardedCall(target, target_owner, positional, keywords)


def _parent_constructor(target: ast.expr, function: Callable, owner: type | None) -> Callable | None:
    """The constructor that `super().__init__` means inside `function`, for an object of class `owner`."""
    is_super = (owner is not None and isinstance(target, ast.Attribute) and target.attr == '__init__'
                and isinstance(target.value, ast.Call) and isinstance(target.value.func, ast.Name)
                and target.value.func.id == 'super')
    if not is_super:
        return None
    order = list(owner.__mro__)
    here = next(index for index, each in enumerate(order) if vars(each).get('__init__') is function)
    return next((vars(each)['__init__'] for each in order[here + 1:] if '__init__' in vars(each)), None)


def _look_up(target: ast.expr, function: Callable) -> Any:
    if isinstance(target, ast.Name):
        return function.__globals__.get(target.id, getattr(builtins, target.id, None))
    if isinstance(target, ast.Attribute):
        return getattr(_look_up(target.value, function), target.attr, None)
    return None

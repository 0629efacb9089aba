"""Checks of single components: the type exists, the arguments are its own and of the right kind, none is missing."""
from __future__ import annotations

import difflib
from collections.abc import Iterator

from paddleseg_ext.config.building import code_problem
from paddleseg_ext.config.known_keys import BUILDER_FILLS, NESTED_KINDS, PAIRS, WARMUP
from paddleseg_ext.config.review import Finding, Part, Review, suggestion
from paddleseg_ext.config.signatures import Argument, nearest_components, schedules
from paddleseg_ext.config.value_kinds import expected_kinds, kind_problem, wants_class
from paddleseg_ext.config.yaml_tree import Node

__all__ = ['check_arguments', 'check_code', 'check_missing_arguments', 'check_nested', 'check_pairs', 'check_types',
           'check_values']

# Of difflib's ratio; `tpye` and `typ` reach it, arguments such as `norm_type` do not.
MISSPELT_TYPE = 0.75


def check_types(review: Review) -> Iterator[Finding]:
    """Every component has a type that is registered, of the kind that its place needs."""
    for part in review.parts:
        kind = part.kind or 'component'
        if 'type' not in part.node.value:
            yield part.path, f'has no type; write which {kind} it is, for example `type: {_example(kind)}`'
            for key in difflib.get_close_matches('type', part.node.value, n=1, cutoff=MISSPELT_TYPE):
                yield (*part.path, key), 'unknown key, did you mean type?'
        elif not isinstance(part.name, str):
            yield (*part.path, 'type'), f'must be the name of {_a(kind)}, got {part.name!r}'
        elif part.component is None:
            yield (*part.path, 'type'), _unknown_type(part, kind)


def _a(kind: str) -> str:
    return f'an {kind}' if kind[0] in 'aeiou' else f'a {kind}'


def _example(kind: str) -> str:
    return {'model': 'RTFormer', 'backbone': 'ResNet50_vd', 'dataset': 'Dataset', 'transform': 'Normalize',
            'loss': 'CrossEntropyLoss', 'optimizer': 'AdamW', 'schedule': 'PolynomialDecay'}.get(kind, 'RTFormer')


def _unknown_type(part: Part, kind: str) -> str:
    if kind == 'schedule':
        return f'unknown learning rate schedule {part.name}{suggestion(part.name, schedules())}'
    if part.found_kind is not None:
        return f'{part.name} is {_a(part.found_kind)}, but {_a(kind)} is needed here'
    near = nearest_components(part.name, part.kind)
    hint = f', did you mean {" or ".join(near)}?' if near else '; `paddleseg models` lists what is registered'
    return f'unknown {kind} {part.name}{hint}'


def check_arguments(review: Review) -> Iterator[Finding]:
    """Every key of a component is an argument of it."""
    for part in review.parts:
        signature = part.signature
        if signature is None:
            continue
        extra = set(WARMUP) if part.kind == 'schedule' else set()
        for key, node in part.node.value.items():
            if key == 'type' or key in signature.arguments or key in extra:
                continue
            if key in signature.fixed:
                yield (*part.path, key), f'{part.name} sets this argument itself, remove it here'
            elif not signature.open:
                hint = suggestion(key, {'type', *signature.arguments, *extra})
                advice = hint + _inherited(review, part, node)
                yield (*part.path, key), f'unknown key, {part.name} has no such argument{advice}'


def _inherited(review: Review, part: Part, node: Node) -> str:
    """The advice for an argument that a base wrote for another type: its file is a base of the type's file."""
    place = part.node.value['type'].where
    if node.where.file not in review.config.bases.get(place.file, ()):
        return ''
    return (f' (it comes from the base, whose type was replaced in {place}; '
            'write `_inherited_: False` in the section to drop what the base wrote)')


def check_missing_arguments(review: Review) -> Iterator[Finding]:
    """Every argument without a default is given, unless PaddleSeg's builder fills it in."""
    for part in review.parts:
        if part.signature is None:
            continue
        for name, argument in part.signature.arguments.items():
            filled = (part.found_kind, name) in BUILDER_FILLS or (part.kind, name) == ('schedule', 'decay_steps')
            if argument.required and name not in part.node.value and not filled:
                text = f': {argument.description}' if argument.description else ''
                yield (*part.path, name), f'missing, {part.name} needs it{text}'


def check_values(review: Review) -> Iterator[Finding]:
    """Every argument is of the kind that the component's default and documentation show."""
    for part in review.parts:
        if part.signature is None:
            continue
        for key, node in part.node.value.items():
            argument = part.signature.arguments.get(key)
            if argument is None and not (part.kind == 'schedule' and key in WARMUP):
                continue
            message = _value_problem(part, key, argument, node.plain())
            if message and not code_problem((key,), node.value):
                yield (*part.path, key), message


def _value_problem(part: Part, key: str, argument: Argument | None, value: object) -> str | None:
    if argument is None:
        return kind_problem(value, WARMUP[key].kinds)
    if _is_component(value) or (key in NESTED_KINDS and key != 'losses'):
        return None
    if wants_class(argument):
        return None if value is None else f'{part.name} takes a Python class here, which YAML cannot give; remove it'
    return kind_problem(value, expected_kinds(argument))


def _is_component(value: object) -> bool:
    return isinstance(value, dict) and 'type' in value


def check_nested(review: Review) -> Iterator[Finding]:
    """Arguments that are components are mappings with a type, and lists of components hold such mappings."""
    for part in review.parts:
        for key, node in part.node.value.items():
            kind = NESTED_KINDS.get(key)
            if kind is None or part.signature is None or part.name == 'MaskFormerLoss':
                continue
            wants_list = kind != 'backbone'
            if wants_list and not isinstance(node.value, list):
                yield (*part.path, key), f'must be a list of {kind}s, got {node.plain()!r}'
            elif not wants_list and not isinstance(node.value, dict):
                yield (*part.path, key), f'must be a mapping with the type of a {kind}, got {node.plain()!r}'
            for index, item in enumerate(node.value if wants_list and isinstance(node.value, list) else ()):
                if not isinstance(item.value, dict):
                    yield ((*part.path, key, index),
                           f'must be a mapping with the type of a {kind}, got {item.plain()!r}; '
                           f'write `- type: {item.plain()}`')


def check_pairs(review: Review) -> Iterator[Finding]:
    """Sizes are two numbers, width first."""
    for part in review.parts:
        for key, node in part.node.value.items():
            if key in PAIRS and part.found_kind == 'transform' and isinstance(node.value, list):
                values = node.plain()
                if len(values) != 2 or any(kind_problem(value, ('float',)) for value in values):
                    yield (*part.path, key), f'must be two numbers, [width, height], got {values}'


def check_code(review: Review) -> Iterator[Finding]:
    """Nothing would be evaluated as Python code."""
    for path, node in review.root.walk():
        message = code_problem(path, node.value)
        if message:
            yield path, message

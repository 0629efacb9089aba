"""The JSON schema of configurations, made from the registered components' signatures.

Draft 7, which is what the YAML extensions of editors understand. A file with `_base_` states only part of a section,
so nothing is required in sections; in lists (transforms, losses), which are replaced whole, arguments are.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from paddleseg_ext.config.known_keys import (
    BUILDER_FILLS,
    CLIP_CLASSES,
    COMPONENT_SECTIONS,
    CUSTOM_GROUP,
    EVALUATED,
    EXPORT,
    LOSS,
    LOSS_SECTIONS,
    NESTED_KINDS,
    OPTIMIZER_ALIASES,
    PAIRS,
    TEST_CONFIG,
    TOP_LEVEL,
    WARMUP,
    Key,
)
from paddleseg_ext.config.signatures import REQUIRED, Argument, Signature, schedules, signature_of
from paddleseg_ext.config.value_kinds import ORDER, expected_kinds, kind_of, wants_class

__all__ = ['json_schema', 'schema_text']

JSON_TYPES = {'int': 'integer', 'float': 'number', 'bool': 'boolean', 'str': 'string', 'list': 'array',
              'dict': 'object', 'none': 'null'}
LIST_KINDS = ('transform', 'loss')
INHERIT = {'type': 'boolean', 'description': 'False drops what the base wrote in this section.'}


def schema_text() -> str:
    """The schema as the text of `configs/schema.json`: the same on every machine."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False, sort_keys=False) + '\n'


def json_schema() -> dict:
    """The schema as a dictionary. Imports Paddle, because the components are read."""
    definitions: dict[str, dict] = {}
    for kind, components in _components().items():
        definitions[kind] = _choice(kind, components, definitions)
    properties = {name: _key(key) for name, key in TOP_LEVEL.items()}
    for name, kind in (*COMPONENT_SECTIONS.items(), ('lr_scheduler', 'schedule')):
        properties[name] = _reference(kind, TOP_LEVEL[name].description)
    for name in LOSS_SECTIONS:
        properties[name] = _closed(LOSS, TOP_LEVEL[name].description)
        properties[name]['properties']['types']['items'] = _reference('loss')
        properties[name]['properties']['coef']['items'] = {'type': 'number'}
    properties['test_config'] = _closed(TEST_CONFIG, TOP_LEVEL['test_config'].description)
    properties['export'] = _closed(EXPORT, TOP_LEVEL['export'].description)
    properties['export']['properties']['transforms']['items'] = _reference('transform')
    base = {'description': 'The file, or files, that this one builds on; of several, the first wins.',
            'anyOf': [{'type': 'string'}, {'type': 'array', 'items': {'type': 'string'}}]}
    return {'$schema': 'http://json-schema.org/draft-07/schema#',
            'title': 'Configuration of paddleseg',
            'description': 'Written by `paddleseg config schema --save configs/schema.json`; do not edit.',
            'type': 'object', 'properties': {'_base_': base, '_inherited_': INHERIT, **properties},
            'additionalProperties': False, 'definitions': definitions}


def _components() -> dict[str, Mapping[str, Any]]:
    import paddleseg_ext.components  # noqa: F401  NOTE: imported for its effect, it registers every component
    from paddleseg_ext.registry import KINDS, components
    return {**{kind: components(kind) for kind in KINDS}, 'schedule': schedules()}


def _choice(kind: str, components: Mapping[str, Any], definitions: dict[str, dict]) -> dict:
    """A mapping whose `type` decides which arguments it has; components with equal arguments share a definition."""
    groups: dict[str, list[str]] = {}
    for name in sorted(components):
        arguments = _arguments(kind, signature_of(components[name]))
        groups.setdefault(json.dumps(arguments, sort_keys=True), []).append(name)
    branches = []
    for arguments, names in groups.items():
        definitions[f'{kind}.{names[0]}'] = json.loads(arguments)
        condition = {'properties': {'type': {'enum': names}}, 'required': ['type']}
        branches.append({'if': condition, 'then': {'$ref': f'#/definitions/{kind}.{names[0]}'}})
    names = [*sorted(components), *(OPTIMIZER_ALIASES if kind == 'optimizer' else ())]
    result = {'type': 'object', 'properties': {'type': {'enum': names, 'description': f'Which {kind}.'}}}
    return {**result, **({'required': ['type']} if kind in LIST_KINDS else {}), 'allOf': branches}


def _arguments(kind: str, signature: Signature) -> dict:
    properties = {name: _argument(kind, argument) for name, argument in signature.arguments.items()
                  if not wants_class(argument)}
    if kind == 'schedule':
        properties.update({name: _key(key) for name, key in WARMUP.items()})
    if kind == 'optimizer':
        properties.update(_optimizer_extras(signature))
    required = [argument.name for argument in signature.arguments.values()
                if argument.required and (kind, argument.name) not in BUILDER_FILLS]
    result: dict[str, Any] = {'description': signature.summary} if signature.summary else {}
    result['properties'] = {'type': True, '_inherited_': INHERIT, **properties}
    if kind in LIST_KINDS and required:
        result['required'] = required
    return result if signature.open else {**result, 'additionalProperties': False}


def _argument(kind: str, argument: Argument) -> dict:
    nested = NESTED_KINDS.get(argument.name)
    result: dict[str, Any] = {'description': argument.description} if argument.description else {}
    if nested == 'backbone':
        return _reference('backbone', argument.description)
    if nested is not None and kind_of(argument.default) != 'list':
        return {**result, 'type': 'array', 'items': _reference(nested)}
    result.update(_types(expected_kinds(argument)))
    if argument.name in EVALUATED:
        result['pattern'] = f'^{EVALUATED[argument.name]}$'
    if argument.name in PAIRS and kind == 'transform':
        result.update(minItems=2, maxItems=2)
    default = list(argument.default) if isinstance(argument.default, tuple) else argument.default
    if default is not REQUIRED and default is not None and kind_of(default):
        result['default'] = default
    return result


def _optimizer_extras(signature: Signature) -> dict:
    """Parameter groups and clipping; SGD takes momentum too, because PaddleSeg's builder then makes it Momentum."""
    clip = {'type': 'object', 'required': ['name'], 'additionalProperties': False, 'properties': {
        'name': {'enum': list(CLIP_CLASSES)},
        **{name: _key(key) for keys in CLIP_CLASSES.values() for name, key in keys.items()}}}
    group = {**_closed(CUSTOM_GROUP, 'A group of parameters.'), 'required': ['name']}
    momentum = {'momentum': {'type': 'number', 'description': 'Momentum.'},
                'use_nesterov': {'type': 'boolean', 'description': 'Nesterov momentum.'}}
    return {'grad_clip_cfg': clip, 'custom_cfg': {'type': 'array', 'items': group},
            **(momentum if signature.name == 'SGD' else {})}


def _closed(table: dict[str, Key], description: str) -> dict:
    return {'description': description, 'type': 'object', 'additionalProperties': False,
            'properties': {name: _key(key) for name, key in table.items()} | {'_inherited_': INHERIT}}


def _key(key: Key) -> dict:
    result = {'description': key.description, **_types(key.kinds)}
    if key.minimum is not None:
        result['minimum'] = key.minimum
    if key.length is not None:
        result.update(minItems=key.length, maxItems=key.length)
    return result


def _types(kinds: Any) -> dict:
    names = [JSON_TYPES[kind] for kind in ORDER if kinds and kind in kinds]
    return {} if not names else {'type': names[0] if len(names) == 1 else names}


def _reference(kind: str, description: str = '') -> dict:
    # Draft 7 ignores what stands beside a $ref, so a description needs the detour.
    reference = {'$ref': f'#/definitions/{kind}'}
    return {'description': description, 'allOf': [reference]} if description else reference

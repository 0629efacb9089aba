"""The only importer of PaddleSeg's component manager: how our classes get their names into YAML."""
from __future__ import annotations

import logging
from typing import Callable

from paddleseg.cvlibs import manager

__all__ = ['KINDS', 'components', 'register']

KINDS = {
    'model': manager.MODELS,
    'backbone': manager.BACKBONES,
    'dataset': manager.DATASETS,
    'transform': manager.TRANSFORMS,
    'loss': manager.LOSSES,
    'optimizer': manager.OPTIMIZERS,
}


def components(kind: str) -> dict[str, Callable]:
    """Every registered component of one kind (a key of KINDS), PaddleSeg's and ours, by the name YAML uses."""
    return dict(KINDS[kind].components_dict)


def register(kind: str, *, replaces_paddleseg: bool = False) -> Callable:
    """Class or function decorator that registers a component under its own `__name__`.

    Args:
        kind: a key of KINDS.
        replaces_paddleseg: the component deliberately takes the place of PaddleSeg's of the same name; one log line
            says so.

    Raises:
        ValueError: the name is taken in any of the registries. PaddleSeg looks all six up as one flat space, so the
            same name in two of them would hide one.
    """

    def add(component):
        name = component.__name__
        holders = [other for other, registry in KINDS.items() if name in registry.components_dict]
        if replaces_paddleseg:
            _replace(kind, name, component, holders)
        elif holders:
            raise ValueError(f'{name} is already registered as a {holders[0]}: every component needs a name of its own '
                             'across models, backbones, datasets, transforms, losses and optimizers; rename the class.')
        else:
            KINDS[kind].add_component(component)
        return component

    return add


def _replace(kind: str, name: str, component: Callable, holders: list[str]) -> None:
    current = KINDS[kind].components_dict.get(name)
    if holders != [kind] or not current.__module__.startswith('paddleseg.'):
        raise ValueError(f'{name} was to replace a {kind} of PaddleSeg, but it is registered by {holders or "nobody"}.')
    # NOTE: the dictionary is set directly because add_component warns about duplicates, and this one is intended.
    KINDS[kind].components_dict[name] = component
    logging.getLogger('paddleseg_ext').info('%s: using paddleseg_ext\'s %s in place of PaddleSeg\'s: same arguments, '
                                            'parameter names and numbers, any batch and size.', name, kind)

"""Registering components: one name, one component, across all six registries of PaddleSeg."""
from __future__ import annotations

import logging

import pytest

from paddleseg_ext.registry import KINDS, components, register


@pytest.fixture(autouse=True)
def restored():
    """The registries as they were before the test."""
    before = {kind: dict(registry.components_dict) for kind, registry in KINDS.items()}
    yield
    for kind, registry in KINDS.items():
        registry.components_dict.clear()
        registry.components_dict.update(before[kind])


@pytest.mark.parametrize('kind', KINDS)
def test_registers_under_its_own_name(kind):
    @register(kind)
    class Novelty:
        pass

    assert components(kind)['Novelty'] is Novelty
    assert KINDS[kind]['Novelty'] is Novelty


def test_functions_too():
    @register('backbone')
    def Novelty_S(**arguments):
        return arguments

    assert components('backbone')['Novelty_S'](depth=2) == {'depth': 2}


@pytest.mark.parametrize('first', KINDS)
@pytest.mark.parametrize('second', ['model', 'transform'])
def test_a_name_is_taken_once_across_all_kinds(first, second):
    register(first)(type('Novelty', (), {}))
    with pytest.raises(ValueError, match=f'Novelty is already registered as a {first}: every component needs a name'):
        register(second)(type('Novelty', (), {}))
    assert sum('Novelty' in components(kind) for kind in KINDS) == 1


def test_the_names_of_paddleseg_are_taken():
    with pytest.raises(ValueError, match='Resize is already registered as a transform'):
        register('dataset')(type('Resize', (), {}))


def test_replacing_is_said_in_the_log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger('paddleseg_ext'), 'propagate', True)
    replacement = type('Resize', (), {})
    with caplog.at_level(logging.INFO, logger='paddleseg_ext'):
        register('transform', replaces_paddleseg=True)(replacement)
    assert components('transform')['Resize'] is replacement
    assert len(caplog.records) == 1
    assert "Resize: using paddleseg_ext's transform in place of PaddleSeg's" in caplog.text


def test_replacing_needs_something_of_paddleseg_to_replace():
    with pytest.raises(ValueError, match='Novelty was to replace a model of PaddleSeg, but it is registered by nobody'):
        register('model', replaces_paddleseg=True)(type('Novelty', (), {}))
    register('model')(type('Novelty', (), {}))
    with pytest.raises(ValueError, match=r"was to replace a model of PaddleSeg, but it is registered by \['model'\]"):
        register('model', replaces_paddleseg=True)(type('Novelty', (), {}))
    with pytest.raises(ValueError, match=r"Resize was to replace a model .* registered by \['transform'\]"):
        register('model', replaces_paddleseg=True)(type('Resize', (), {}))


def test_unknown_kind():
    with pytest.raises(KeyError, match='modle'):
        register('modle')(type('Novelty', (), {}))
    with pytest.raises(KeyError, match='modle'):
        components('modle')


def test_only_rtformer_replaces_something_of_paddleseg():
    import paddleseg_ext.components  # noqa: F401  NOTE: imported for its effect, it registers our components
    ours = [name for kind in KINDS for name, component in components(kind).items()
            if component.__module__.startswith('paddleseg_ext.')]
    assert 'RTFormer' in ours and 'CamVid' in ours
    from paddleseg import datasets, models, transforms
    theirs = {name for package in (datasets, models, transforms) for name in vars(package)}
    assert [name for name in ours if name in theirs] == ['RTFormer']

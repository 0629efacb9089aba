"""Mends what PaddleSeg 2.8.0 breaks on the installed Paddle, and touches nothing else of it.

``apply()`` walks the table ``FAULTS``. An entry names one function or method, the Paddle versions on which it is broken
and what replaces it; nothing happens for another PaddleSeg than 2.8.0 or for a Paddle that does not show the fault.
"""
from __future__ import annotations

from paddleseg_ext.compat import losses, models, optimizers, training, transforms
from paddleseg_ext.compat.faults import Fault
from paddleseg_ext.environment import PADDLESEG_VERSION, installed_version

__all__ = ['FAULTS', 'Fault', 'applied', 'apply', 'original']

FAULTS: tuple[Fault, ...] = (
    losses.FAULTS + models.FAULTS + optimizers.FAULTS + training.FAULTS + transforms.FAULTS)
_ORIGINALS: dict[str, object] = {}


def apply() -> list[str]:
    """Replace what is broken here, once; the names of the entries that are in force (all of them, on each call)."""
    if installed_version('paddleseg') == PADDLESEG_VERSION:
        import paddle
        for fault in FAULTS:
            if fault.name not in _ORIGINALS and fault.broken_on(paddle.__version__):
                _mend(fault)
    return applied()


def applied() -> list[str]:
    """The names of the entries that are in force."""
    return list(_ORIGINALS)


def original(name: str) -> object:
    """What PaddleSeg had under this name of an entry in force; KeyError names the ones there are."""
    if name not in _ORIGINALS:
        raise KeyError(f'{name!r} has not been mended; mended are {applied()}')
    return _ORIGINALS[name]


def _mend(fault: Fault) -> None:
    owner, attribute = fault.owner()
    before = getattr(owner, attribute, None)
    replacement = fault.make(before)
    replacement.__name__ = attribute
    setattr(owner, attribute, replacement)
    _ORIGINALS[fault.name] = before

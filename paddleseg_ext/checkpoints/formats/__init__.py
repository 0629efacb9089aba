"""The formats of checkpoints that are recognised: names and rules as data, a file an architecture."""
from __future__ import annotations

from collections.abc import Collection

from paddleseg_ext.checkpoints.formats import others, rtformer, twins, xcit
from paddleseg_ext.checkpoints.rules import Format, bears

__all__ = ['FORMATS', 'recognise', 'resembles']

FORMATS: tuple[Format, ...] = (*twins.FORMATS, *xcit.FORMATS, *rtformer.FORMATS)


def recognise(names: Collection[str], layout: str | None) -> Format | None:
    """The format of a checkpoint with these names; None where it is none of ours.

    Args:
        layout: 'torch' or 'paddle', None where the file does not tell.
    """
    return next((form for form in FORMATS if layout in (None, form.layout) and bears(names, form.marks)), None)


def resembles(names: Collection[str]) -> str | None:
    """What a checkpoint that is none of ours looks like, for messages."""
    known = [*((form.name, form.marks) for form in FORMATS), *others.LOOKS]
    return next((name for name, marks in known if bears(names, marks)), None)

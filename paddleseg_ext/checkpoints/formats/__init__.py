"""The formats of checkpoints that are recognised: names and rules as data, a file an architecture."""
from __future__ import annotations

from collections.abc import Collection

from paddleseg_ext.checkpoints.formats import others, resnet, rtformer, twins, xcit
from paddleseg_ext.checkpoints.rules import Format, bears, is_of

__all__ = ['FORMATS', 'recognise', 'resembles']

FORMATS: tuple[Format, ...] = (*twins.FORMATS, *xcit.FORMATS, *resnet.FORMATS, *rtformer.FORMATS)


def recognise(names: Collection[str], layout: str | None) -> Format | None:
    """The format of a checkpoint with these names; None where it is none of ours.

    Args:
        layout: 'torch' or 'paddle', None where the file does not tell.
    """
    return next((form for form in FORMATS if layout in (None, form.layout) and is_of(form, names)), None)


def resembles(names: Collection[str]) -> str | None:
    """What a checkpoint that is none of ours looks like, for messages."""
    known = [form.name for form in FORMATS if is_of(form, names)]
    return next(iter([*known, *(name for name, marks in others.LOOKS if bears(names, marks))]), None)

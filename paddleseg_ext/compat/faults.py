"""What a mended fault of PaddleSeg is, and the helpers its entries share."""
from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Callable

from paddleseg_ext.environment import parse_version

__all__ = ['Fault']


@dataclass(frozen=True)
class Fault:
    """One thing of PaddleSeg 2.8.0 that some Paddle version breaks, and what replaces it.

    Args:
        target: what is replaced, ``module:attribute`` or ``module:Class.attribute``.
        why: what happens without it, in one sentence.
        make: called with the original (None where the class merely inherits or lacks the attribute) and returns
            the replacement.
        since: the first Paddle version (tuple of two ints) on which it is broken; ``(0, 0)`` means on every one.
    """
    target: str
    why: str
    make: Callable
    since: tuple[int, int] = (3, 0)

    @property
    def name(self) -> str:
        """The part of the target after its module, for example ``CrossEntropyLoss._post_process_loss``."""
        return self.target.split(':')[1]

    def broken_on(self, paddle_version: str) -> bool:
        """Whether the fault shows on this Paddle version, such as ``'3.2.2'``."""
        version = parse_version(paddle_version)
        # NOTE: builds of Paddle from source call themselves 0.0.0; they are newer than any release.
        return version[:2] == (0, 0) or version[:2] >= self.since

    def owner(self) -> tuple[object, str]:
        """The object that holds the attribute to replace, and the attribute's name."""
        module, path = self.target.split(':')
        holder = importlib.import_module(module)
        *parents, attribute = path.split('.')
        for parent in parents:
            holder = getattr(holder, parent)
        return holder, attribute

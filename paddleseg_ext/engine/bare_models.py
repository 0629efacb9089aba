"""Building models for their shapes only: without the time that random initial weights take."""
from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import paddle

__all__ = ['bare_models']

# Numbers from which a weight is not even set to zero.
MUCH = 10**5
# Operators behind Paddle's random initializers, and which of their arguments is the type; the first is the shape.
DRAWS = {'gaussian': 4, 'truncated_gaussian_random': 6, 'uniform': 1}


@contextlib.contextmanager
def bare_models() -> Iterator[None]:
    """Within it, what Paddle would draw at random is zero or, where there is much of it, whatever is in memory.

    It must not run beside other work of this process with Paddle.
    """
    originals = {name: getattr(paddle._C_ops, name) for name in DRAWS if hasattr(paddle._C_ops, name)}
    try:
        for name in originals:
            setattr(paddle._C_ops, name, _zeros(DRAWS[name]))
        yield
    finally:
        for name, original in originals.items():
            setattr(paddle._C_ops, name, original)


def _zeros(index: int) -> Callable:
    def draw(*args):
        make = paddle.empty if math.prod(args[0]) >= MUCH else paddle.zeros
        return make(args[0], dtype=args[index])

    return draw

"""One look for the progress bars of long loops."""
from __future__ import annotations

import sys

from tqdm import tqdm

__all__ = ['progress_bar']


def progress_bar(total: int, description: str, *, enabled: bool = True) -> tqdm:
    """A bar over `total` images on stderr, gone when it is done; none where stderr is no terminal, as in a log file."""
    # NOTE: tqdm takes None for "disabled unless it is a terminal".
    return tqdm(total=total, desc=description, unit='image', file=sys.stderr, leave=False,
                disable=None if enabled else True)

"""Where the time goes: named stages, and their mean and percentiles."""
from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np

__all__ = ['PERCENTILES', 'Stopwatch']

PERCENTILES = (50, 90, 99)


class Stopwatch:
    """Collects durations per stage."""

    def __init__(self):
        self._seconds: dict[str, list[float]] = {}
        self._items: dict[str, int] = {}

    @contextlib.contextmanager
    def time(self, stage: str, *, items: int = 1) -> Iterator[None]:
        """Time a block as one call of `stage` that handles `items` images. Blocks that raise are not counted."""
        start = time.perf_counter()
        yield
        self._seconds.setdefault(stage, []).append(time.perf_counter() - start)
        self._items[stage] = self._items.get(stage, 0) + items

    def summary(self) -> dict[str, dict[str, float]]:
        """Per stage: `calls`, `images`, `mean_ms`, `p50_ms` … `p99_ms` of a call, and `images_per_second`."""
        return {stage: self._stage(stage) for stage in self._seconds}

    def _stage(self, stage: str) -> dict[str, float]:
        seconds = np.asarray(self._seconds[stage])
        figures = {'calls': len(seconds), 'images': self._items[stage], 'mean_ms': 1000 * float(seconds.mean())}
        for percentile in PERCENTILES:
            figures[f'p{percentile}_ms'] = 1000 * float(np.percentile(seconds, percentile))
        figures['images_per_second'] = self._items[stage] / max(float(seconds.sum()), 1e-9)
        return figures

    def table(self) -> str:
        """The summary as text, a line per stage and one for all stages together; empty when nothing was timed."""
        summary = self.summary()
        if not summary:
            return ''
        columns = ['mean_ms', *(f'p{percentile}_ms' for percentile in PERCENTILES)]
        lines = [f'{"stage":8}{"calls":>8}' + ''.join(f'{name[:-3] + " ms":>11}' for name in columns)
                 + f'{"images/s":>12}']
        for stage, figures in summary.items():
            lines.append(f'{stage:8}{figures["calls"]:8d}' + ''.join(f'{figures[name]:11.2f}' for name in columns)
                         + f'{figures["images_per_second"]:12.1f}')
        per_image = sum(1 / figures['images_per_second'] for figures in summary.values())
        lines.append(f'together {1000 * per_image:.2f} ms per image, {1 / per_image:.1f} images/s')
        return '\n'.join(lines)

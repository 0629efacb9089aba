"""What every inference backend offers."""
from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

__all__ = ['Runner']


@runtime_checkable
class Runner(Protocol):
    """An exported program that is loaded and ready.

    A runner belongs to one thread: programs keep their input and output buffers between calls.
    """

    @property
    def description(self) -> str:
        """One line for people: backend, version, device, threads, precision."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """Run the program on a batch.

        Args:
            images: float32 `[N, C, H, W]`, pre-processed as the export folder's `deploy.yaml` says.

        Returns:
            labels int32 `[N, H, W]` (`output_op: argmax`) or scores float32 `[N, classes, H, W]`.
        """

    def close(self) -> None:
        """Free the program; `run` must not be called afterwards. Closing twice is fine."""

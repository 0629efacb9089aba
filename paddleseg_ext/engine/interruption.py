"""Stopping a training by Ctrl-C or SIGTERM without losing what it has learned."""
from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator

__all__ = ['Interrupted', 'StopRequest']

log = logging.getLogger('paddleseg_ext')


class Interrupted(KeyboardInterrupt):
    """The training was asked to stop and has saved a checkpoint; the text says how to go on."""


class StopRequest:
    """Turns SIGINT and SIGTERM into a wish, `asked`, that is granted between two steps; a second SIGINT stops at once.

    A context manager; outside of it, and outside the main thread, signals do what they always do.
    """

    def __init__(self):
        self.asked = False
        self._breaks = False

    def __enter__(self) -> StopRequest:
        numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        self._previous = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _receive(self, number: int, _frame) -> None:
        first, self.asked = not self.asked, True
        if self._breaks:
            self._breaks = False
            raise KeyboardInterrupt
        if first:
            log.warning('%s: finishing this step and saving a checkpoint; Ctrl-C again to stop at once.',
                        signal.Signals(number).name)
        elif number == signal.SIGINT:
            # NOTE: not for SIGTERM, because paddle.distributed.launch sends three of them within a second.
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def breaking(self) -> Iterator[None]:
        """Within the block the first signal raises KeyboardInterrupt: for long work that changes nothing."""
        self._breaks = True
        try:
            yield
        finally:
            self._breaks = False

"""Processes that read samples ahead, and that end when they should."""
from __future__ import annotations

import signal
from collections.abc import Iterator

import paddle

__all__ = ['read_ahead']

# How long a worker may take to end, in seconds.
PATIENCE = 10


def read_ahead(dataset: paddle.io.Dataset, *, num_workers: int, **arguments) -> Iterator:
    """What Paddle's DataLoader yields with `num_workers` ≥ 1 processes; closing the generator ends them.

    Args:
        dataset: what the workers read; an exception in it reaches the caller wrapped in Paddle's traceback.
        arguments: further arguments of `paddle.io.DataLoader`.
    """
    loader = iter(paddle.io.DataLoader(dataset, num_workers=num_workers, return_list=True,
                                       worker_init_fn=_forget_signals, **arguments))
    try:
        yield from loader
    finally:
        # NOTE: a private method, because by itself Paddle ends its workers only after the last batch; left to the end
        # of the program, their deaths raise SystemError.
        loader._try_shutdown_all(PATIENCE)


def _forget_signals(_worker: int) -> None:
    # NOTE: a worker inherits our handlers, but Ctrl-C is for the parent to answer, and SIGTERM must end a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

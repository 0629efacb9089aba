"""Processes that wait for their turn: both ends of the protocol between a comparison and what it measures.

A child answers one line of JSON to each line of its standard input: `check`, `run`, `peak`. Everything else that its
libraries print goes to its log.
"""
from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ['Child', 'ChildFailure', 'TooMuch', 'memory', 'peak_memory', 'reset_peak_memory', 'serve',
           'take_standard_output']

ROOT = Path(__file__).resolve().parents[1]
WATCH = 0.05  # seconds between two looks at a child that has limits


class ChildFailure(RuntimeError):
    """A child ended or answered with an error; the text has the end of its log."""


class TooMuch(ChildFailure):
    """A child needed more than it was allowed; the text says of what."""


class Child:
    """The parent's end.

    Args:
        module: of this folder, with a `main` that ends in `serve` or just ends.
        arguments: of its command line.
        environment: variables on top of this process's.
        log: file that takes whatever it prints.
    """

    def __init__(self, module: str, arguments: list, environment: dict[str, str], log: Path):
        self.log = log
        command = [sys.executable, '-m', f'benchmarks.{module}', *map(str, arguments)]
        with log.open('w', encoding='utf-8') as sink:
            self._process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, text=True,
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink)

    def ask(self, command: str) -> dict:
        """The answer to one command.

        Raises:
            ChildFailure: there is none.
        """
        try:
            self._process.stdin.write(command + '\n')
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the log says why, below
        line = self._process.stdout.readline()
        if not line:
            raise ChildFailure(f'ended with {self._process.wait()}: {self._end_of_log()}')
        return json.loads(line)

    def wait(self) -> str:
        """What a child that takes no commands printed, once it has ended.

        Raises:
            ChildFailure: it did not end with 0.
        """
        printed, _ = self._process.communicate()
        if self._process.returncode:
            raise ChildFailure(f'ended with {self._process.returncode}: {self._end_of_log()}')
        return printed

    def wait_within(self, *, seconds: float, bytes: int) -> str:
        """As `wait`, but the child is killed when it takes longer, or has more resident memory.

        Raises:
            TooMuch: it was killed.
            ChildFailure: as `wait`.
        """
        deadline = time.monotonic() + seconds
        while self._process.poll() is None:
            large = memory('VmRSS', self._process.pid) > bytes
            if large or time.monotonic() > deadline:
                self._process.kill()
                self._process.communicate()
                raise TooMuch(f'more than {bytes / 2**30:g} GiB' if large else f'more than {seconds:g} s')
            time.sleep(WATCH)
        return self.wait()

    def close(self) -> None:
        """End it; closing twice is fine."""
        if not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _end_of_log(self) -> str:
        lines = [line for line in self.log.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()]
        return f'{lines[-1] if lines else "it printed nothing"} (all of it: {self.log})'


def serve(step: Callable[[], object], check: Callable[[], float]) -> None:
    """The child's end: answer commands until the input ends.

    Args:
        step: what is timed.
        check: runs it and returns how far it is from the reference, relative.
    """
    answers = take_standard_output()
    for line in sys.stdin:
        command = line.strip()
        if command == 'check':
            answer = {'difference': check()}
            reset_peak_memory()
        elif command == 'run':
            start, processor_start = time.perf_counter(), time.process_time()
            step()
            answer = {'seconds': time.perf_counter() - start,
                      'processor_seconds': time.process_time() - processor_start}
        elif command == 'peak':
            answer = {'bytes': peak_memory()}
        else:
            raise ValueError(f'{command!r}: expected check, run or peak.')
        print(json.dumps(answer), file=answers, flush=True)


def take_standard_output():
    """The standard output as a file of our own; what libraries print goes to the standard error from here on."""
    answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)
    return answers


def reset_peak_memory() -> None:
    """Forget the peak of resident memory so far, where the system allows it."""
    try:
        Path('/proc/self/clear_refs').write_text('5', encoding='ascii')
    except OSError:
        return


def peak_memory() -> int:
    """Most resident memory in bytes since `reset_peak_memory`."""
    unit = 1 if sys.platform == 'darwin' else 1024
    return memory('VmHWM') or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory(field: str, process: int | str = 'self') -> int:
    """Bytes of a field of Linux's /proc/…/status, such as 'VmRSS'; 0 where there is none, as after the end."""
    try:
        lines = Path(f'/proc/{process}/status').read_text(encoding='utf-8').splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{field}:')), 0)

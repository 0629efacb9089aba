"""Running the command as a user does."""
from __future__ import annotations

import subprocess
import sys


def run_cli(*arguments, cwd=None, timeout=300) -> subprocess.CompletedProcess:
    """`python -m paddleseg_ext ARGUMENTS` in a process of its own, output captured as text."""
    command = [sys.executable, '-m', 'paddleseg_ext', *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=timeout)

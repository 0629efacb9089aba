"""Run by a test: runs `paddleseg …` lines (a JSON list on stdin) one after the other in this one process."""
from __future__ import annotations

import json
import shlex
import sys

from paddleseg_ext.cli.main import main


def run(lines: list[str]) -> int:
    """Exit code of the first line that fails, else 0."""
    for line in lines:
        print(f'$ {line}', flush=True)
        code = main(shlex.split(line)[1:])
        if code:
            return code
    return 0


if __name__ == '__main__':
    sys.exit(run(json.load(sys.stdin)))

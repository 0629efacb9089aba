"""`make test-matrix`: the quick tests on several versions of Paddle, each in an environment of its own.

    python -m scripts.test_matrix [VERSION …] [--fresh] [-- PYTEST ARGUMENTS]

Environments stay in .venv-matrix/<version> (about 1.5 GB each) and are used again unless `--fresh`. Prints a table and
ends with 1 if the tests fail on any version.
"""
from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from paddleseg_ext.environment import TESTED_PADDLE

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / '.venv-matrix'
COUNTS = ('passed', 'failed', 'errors', 'skipped')


def main() -> int:
    """Run the matrix; 0 if every version passes."""
    args = _parse()
    rows = []
    for version in args.versions or TESTED_PADDLE:
        start = time.monotonic()
        result = _test(version, fresh=args.fresh, pytest_arguments=args.pytest_arguments)
        rows.append((version, *result, f'{(time.monotonic() - start) / 60:.1f} min'))
    print('\n' + _table(rows))
    return 0 if all(row[1] == 'ok' for row in rows) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('versions', nargs='*', metavar='VERSION', help=f'default: {" ".join(TESTED_PADDLE)}')
    parser.add_argument('--fresh', action='store_true', help='make the environments anew')
    own, separator, pytest_arguments = _split(sys.argv[1:])
    args = parser.parse_args(own)
    args.pytest_arguments = pytest_arguments
    return args


def _split(arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    """What stands before ``--``, the separator, and what stands after it."""
    place = arguments.index('--') if '--' in arguments else len(arguments)
    return arguments[:place], arguments[place:place + 1], arguments[place + 1:]


def _test(version: str, *, fresh: bool, pytest_arguments: list[str]) -> tuple[str, str]:
    """'ok', 'FAILED' or 'not installed' for one version of Paddle, and the counts of the tests."""
    print(f'\n== paddlepaddle {version}', flush=True)
    python = _environment(version, fresh=fresh)
    if python is None:
        return 'not installed', ''
    run = subprocess.Popen([python, '-m', 'pytest', '-p', 'no:cacheprovider', *pytest_arguments], cwd=ROOT, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = []
    for line in run.stdout:
        print(line, end='', flush=True)
        lines.append(line)
    summary = lines[-1] if lines else ''
    counts = [f'{number} {word}' for number, word in re.findall(r'(\d+) (\w+)', summary) if word in COUNTS]
    return 'ok' if run.wait() == 0 else 'FAILED', ', '.join(counts)


def _environment(version: str, *, fresh: bool) -> Path | None:
    """The Python of the environment with this Paddle, made if it is not there; None if pip cannot install it."""
    folder = FOLDER / version
    python = folder / 'bin' / 'python'
    stamp = folder / '.installed'
    if fresh and folder.exists():
        shutil.rmtree(folder)
    if stamp.exists():
        return python
    subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
    install = [python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check',
               '--constraint', ROOT / 'constraints.txt', f'paddlepaddle=={version}', '--editable', f'{ROOT}[test]']
    if subprocess.run(install).returncode != 0:
        return None
    stamp.touch()
    return python


def _table(rows: list[tuple[str, ...]]) -> str:
    """Aligned columns under a heading."""
    rows = [('paddlepaddle', 'result', 'tests', 'time'), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


if __name__ == '__main__':
    sys.exit(main())

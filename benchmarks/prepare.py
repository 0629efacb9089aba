"""Steps before a comparison: `python -m benchmarks.prepare STEP MODEL FOLDER SIZE BATCH`; STEP as in STEPS."""
from __future__ import annotations

import sys
from pathlib import Path

__all__ = ['STEPS', 'main']

STEPS = ('reference', 'export', 'convert')


def main(arguments: list[str]) -> int:
    step, model, folder = arguments[0], arguments[1], Path(arguments[2])
    if step == 'reference':
        from benchmarks.torch_side import write_reference
        write_reference(model, folder, size=int(arguments[3]), batch=int(arguments[4]))
    elif step == 'export':
        from benchmarks.paddle_side import export
        export(model, folder)
    else:
        from benchmarks.paddle_side import convert
        convert(folder)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

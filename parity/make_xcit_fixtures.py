"""Writes tests/fixtures/xcit: what timm computes at reduced widths, for tests without PyTorch.

    PYTHONPATH=tests .venv-parity/bin/python -m parity.make_xcit_fixtures

A case is a JSON file with the names and shapes of timm's weights, and its logits in `outputs.npz`. The weights
themselves are drawn again in the test (`xcit_sources.source_weights`).
"""
from __future__ import annotations

import json
import os

import numpy as np
from xcit_sources import FIXTURES, NUM_CLASSES, REDUCED, SIZES, TIMM_NAMES, images, output_key, source_weights

from parity import oracle, xcit_oracle


def write() -> None:
    FIXTURES.mkdir(parents=True, exist_ok=True)
    outputs = {}
    for name in TIMM_NAMES:
        judge = xcit_oracle.classifier(name, channels=REDUCED[name], num_classes=NUM_CLASSES)
        shapes = oracle.shapes(judge)
        lines = ',\n'.join(f'{json.dumps(key)}: {json.dumps(shape)}' for key, shape in shapes.items())
        (FIXTURES / f'{name}.json').write_text('{\n' + lines + '\n}\n')
        oracle.fill(judge, source_weights(shapes))
        for size in SIZES:
            outputs[output_key(name, size, 'main')] = xcit_oracle.logits(judge, images(size))['main']
        print(name)
    part = FIXTURES / 'outputs.part.npz'
    np.savez_compressed(part, **outputs)
    os.replace(part, FIXTURES / 'outputs.npz')


if __name__ == '__main__':
    write()

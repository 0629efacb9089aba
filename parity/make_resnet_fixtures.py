"""Writes tests/fixtures/resnet: what timm computes at reduced widths, for tests without PyTorch.

    PYTHONPATH=tests .venv-parity/bin/python -m parity.make_resnet_fixtures

A case is a JSON file with the names and shapes of timm's weights, and logits and maps in `outputs.npz`. The weights
themselves are drawn again in the test (`resnet_sources.source_weights`).
"""
from __future__ import annotations

import json
import os

import numpy as np
from resnet_sources import (
    FIXTURES,
    NUM_CLASSES,
    SIZES,
    TIMM_NAMES,
    WIDTHS,
    images,
    output_key,
    source_weights,
    subsampled,
)

from parity import oracle, resnet_oracle


def write() -> None:
    FIXTURES.mkdir(parents=True, exist_ok=True)
    outputs = {}
    for name in TIMM_NAMES:
        judge = resnet_oracle.classifier(name, widths=WIDTHS, num_classes=NUM_CLASSES)
        shapes = oracle.shapes(judge)
        lines = ',\n'.join(f'{json.dumps(key)}: {json.dumps(shape)}' for key, shape in shapes.items())
        (FIXTURES / f'{name}.json').write_text('{\n' + lines + '\n}\n')
        oracle.fill(judge, source_weights(shapes))
        for size in SIZES:
            for kind, values in resnet_oracle.outputs(judge, images(size)).items():
                outputs[output_key(name, size, kind)] = subsampled(values)
        print(name)
    part = FIXTURES / 'outputs.part.npz'
    np.savez_compressed(part, **outputs)
    os.replace(part, FIXTURES / 'outputs.npz')


if __name__ == '__main__':
    write()

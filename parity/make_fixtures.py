"""Writes tests/fixtures/twins: what timm and mmsegmentation compute at reduced widths, for tests without PyTorch.

    PYTHONPATH=tests .venv-parity/bin/python -m parity.make_fixtures

A case is a JSON file with the names and shapes of the source's weights, and the logits in its folder's `outputs.npz`.
The weights themselves are drawn again in the test (`twins_sources.source_weights`).
"""
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from twins_sources import (
    AUXILIARY,
    FIXTURES,
    HEADS,
    NUM_CLASSES,
    REDUCED_CHANNELS,
    REDUCED_HEADS,
    SIZES,
    SUBSAMPLING,
    TIMM_NAMES,
    images,
    output_key,
    source_weights,
)

from parity import oracle


def classifiers() -> Iterator[tuple[str, oracle.Judge]]:
    for name in TIMM_NAMES:
        yield name, oracle.classifier(name, channels=REDUCED_CHANNELS[name], num_classes=NUM_CLASSES)


def segmentors() -> Iterator[tuple[str, oracle.Judge]]:
    for name in TIMM_NAMES:
        for head in HEADS:
            yield f'{name}_{head}', oracle.segmentor(name, head, num_classes=NUM_CLASSES,
                                                     channels=REDUCED_CHANNELS[name], widths=REDUCED_HEADS)


def write(folder: Path, cases: Iterator[tuple[str, oracle.Judge]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    outputs = {}
    for name, judge in cases:
        shapes = oracle.shapes(judge)
        lines = ',\n'.join(f'{json.dumps(key)}: {json.dumps(shape)}' for key, shape in shapes.items())
        (folder / f'{name}.json').write_text('{\n' + lines + '\n}\n')
        oracle.fill(judge, source_weights(shapes))
        for size in SIZES:
            for kind, logits in oracle.logits(judge, images(size)).items():
                step = 1 if logits.ndim == 2 or kind == AUXILIARY else SUBSAMPLING
                outputs[output_key(name, size, kind)] = logits[..., ::step, ::step] if logits.ndim == 4 else logits
        print(f'{folder.name}: {name}')
    part = folder / 'outputs.part.npz'
    np.savez_compressed(part, **outputs)
    os.replace(part, folder / 'outputs.npz')


if __name__ == '__main__':
    write(FIXTURES / 'timm', classifiers())
    write(FIXTURES / 'mmsegmentation', segmentors())

"""Run by a test under ``paddle.distributed.launch``: every rank writes what `evaluate` gave it."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import paddle
from tiny_segmentation import CLASSES, TinyModel, make_dataset

from paddleseg_ext.engine.evaluate import evaluate
from paddleseg_ext.metrics import ScoreHistogram

if __name__ == '__main__':
    root, target = map(Path, sys.argv[1:])
    model, scores = TinyModel(), ScoreHistogram(CLASSES)
    matrix = evaluate(model, make_dataset(root), batch_size=2, progress=False, scores=scores)
    result = {'counts': matrix.counts.tolist(), 'ignored': matrix.ignored_pixels, 'auc': scores.auc,
              'images': sum(shape[0] for shape in model.shapes)}
    (target / f'rank_{paddle.distributed.get_rank()}.json').write_text(json.dumps(result))

"""One process of a comparison: `python -m benchmarks.subject PATH MODEL FOLDER THREADS`, then see `turns`."""
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ['main', 'make_step']


def make_step(path: str, model: str, folder: Path, threads: int) -> Callable[[], object]:
    """What one path of `compare_backbones.PATHS` times; only the libraries that it needs are imported."""
    if path.startswith('timm'):
        import torch

        from benchmarks import torch_side
        torch.set_num_threads(threads)
        return (torch_side.training_step if path == 'timm-train' else torch_side.forward_step)(model, folder)
    from benchmarks import paddle_side
    if path in ('dygraph', 'dygraph-train'):
        return (paddle_side.dygraph_step if path == 'dygraph' else paddle_side.training_step)(model, folder)
    steps = {'paddle': paddle_side.program_step, 'onnxruntime': paddle_side.onnxruntime_step,
             'openvino': paddle_side.openvino_step}
    return steps[path](folder, threads=threads)


def difference(value, reference) -> float:
    """Largest difference over the largest reference value."""
    import numpy as np

    return float(np.abs(np.asarray(value) - reference).max() / np.abs(reference).max())


def main(arguments: list[str]) -> int:
    from benchmarks.turns import serve

    path, model, folder, threads = arguments[0], arguments[1], Path(arguments[2]), int(arguments[3])
    step = make_step(path, model, folder, threads)

    def check() -> float:
        import numpy as np

        if path.endswith('-train'):
            return difference([step(), step()], np.load(folder / 'losses.npy'))
        return difference(step(), np.load(folder / 'logits.npy'))

    serve(step, check)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

"""Where the time of a dygraph step goes: `python -m benchmarks.dygraph_profile PATH MODEL FOLDER`, JSON on the output.

Paddle's profiler says which kernels ran within which layer; what is left of the step is Python, autograd and memory.
"""
from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path

__all__ = ['main', 'profile']

KERNEL = ' kernel launch'
REST = 'no kernel: Python, autograd, memory'


def profile(step) -> dict[str, float]:
    """Seconds by kernel and layer, such as 'matmul in Linear', of the second of two steps."""
    from paddle import profiler

    step()
    with profiler.Profiler(targets=[profiler.ProfilerTarget.CPU], on_trace_ready=lambda _: None) as recorder:
        start = time.perf_counter()
        step()
        whole = time.perf_counter() - start
    seconds: dict[str, float] = defaultdict(float)
    for root in recorder.profiler_result.get_data().values():
        _add(root, '', seconds)
    seconds[REST] = max(0., whole - sum(seconds.values()))
    return dict(seconds)


def _add(node, layer: str, seconds: dict[str, float]) -> None:
    kind = str(node.type).rpartition('.')[2]
    if kind in ('Forward', 'Backward', 'Optimization'):
        layer = {'Forward': node.name, 'Backward': 'backward', 'Optimization': 'optimizer'}[kind]
    if node.name.endswith(KERNEL):
        seconds[f'{node.name[:-len(KERNEL)]} in {layer}'] += (node.end_ns - node.start_ns) * 1e-9
        return
    for child in node.children_node:
        _add(child, layer, seconds)


def main(arguments: list[str]) -> int:
    from benchmarks.subject import make_step
    from benchmarks.turns import take_standard_output

    path, model, folder = arguments[0], arguments[1], Path(arguments[2])
    answers = take_standard_output()
    seconds = profile(make_step(path, model, folder, threads=1))
    print(json.dumps(seconds), file=answers, flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

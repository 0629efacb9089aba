"""One process of `compare_pyramids`, which answers as `turns` says.

    python -m benchmarks.pyramid_subject KIND HEAD BACKBONE SIZE BATCH
"""
from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ['CLASSES', 'main', 'make_step']

CLASSES = 19


def make_step(kind: str, head: str, backbone: str, size: int, batch: int) -> Callable[[], object]:
    """What is timed on random images in dygraph: 'decode' (all but the backbone), 'forward' or 'training'."""
    import paddle

    import paddleseg_ext.components  # noqa: F401 NOTE: it registers what is built.
    from paddleseg_ext.registry import components

    model = components('model')[head](CLASSES, components('backbone')[backbone]())
    if kind == 'training':
        return _training_step(model, size, batch)
    model.eval()
    image = paddle.randn([1, 3, size, size])
    with paddle.no_grad():
        maps = model.backbone(image)

    def step() -> None:
        with paddle.no_grad():
            (model.decode(maps) if kind == 'decode' else model(image)[0]).numpy()

    return step


def _training_step(model, size: int, batch: int) -> Callable[[], object]:
    import paddle

    model.train()
    images = paddle.randn([batch, 3, size, size])
    labels = paddle.randint(0, CLASSES, [batch, 1, size, size])
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters(), weight_decay=0.01)

    def step() -> float:
        loss = paddle.nn.functional.cross_entropy(model(images)[0], labels, axis=1)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return float(loss)

    return step


def main(arguments: list[str]) -> int:
    from benchmarks.turns import serve
    from paddleseg_ext.environment import choose_matrix_kernels

    choose_matrix_kernels()
    kind, head, backbone, size, batch = *arguments[:3], int(arguments[3]), int(arguments[4])
    step = make_step(kind, head, backbone, size, batch)

    def check() -> float:
        step()
        return 0.

    serve(step, check)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

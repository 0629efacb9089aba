"""One point of `linearity`: `python -m benchmarks.linearity_point MODEL PART SIZE`, JSON on the output.

MODEL and PART as in `linearity`, SIZE the side of the image in pixels. Weights are as they start.
"""
from __future__ import annotations

import json
import sys
import time

from benchmarks.turns import memory, peak_memory, reset_peak_memory, take_standard_output

__all__ = ['main']

CLASSES = 19
STRIDES = (4, 8, 16, 32)
# PaddleSeg registers no ViT-S: its ViT_small has 768 channels. These are DeiT-S's sizes, with four maps of its tokens.
VIT_S = {'patch_size': 16, 'embed_dim': 384, 'depth': 12, 'num_heads': 6, 'mlp_ratio': 4, 'qkv_bias': True}
VIT_BLOCKS = (2, 5, 8, 11)
SETTLING = 128  # pixels along the side of the image that is seen first, so that libraries have what they keep
ROUNDS, SECONDS = 3, 8.  # the best of so many forward passes, or of those begun within so many seconds


def build(name: str, part: str, size: int):
    """The segmentor or the backbone of a model."""
    import paddleseg_ext.components  # noqa: F401 NOTE: it registers what is built.
    from paddleseg_ext.registry import components

    if name == 'RTFormer':
        return components('model')['RTFormer'](CLASSES, use_injection=(True, False))
    backbone = _vit(size) if name == 'ViT_S' else components('backbone')[name]()
    if part == 'backbone':
        return backbone
    strides = getattr(backbone, 'feat_strides', STRIDES)
    return components('model')['SemanticFPN'](CLASSES, backbone, feat_strides=strides)


def _vit(size: int):
    """PaddleSeg's ViT at the sizes of ViT-S; its lists of tokens become maps, all of stride 16."""
    from paddle import nn

    from paddleseg_ext.registry import components

    class Maps(nn.Layer):
        feat_channels, feat_strides = [VIT_S['embed_dim']] * 4, [VIT_S['patch_size']] * 4

        def __init__(self):
            super().__init__()
            self.vit = components('backbone')['VisionTransformer'](img_size=size, **VIT_S)

        def forward(self, x):
            tokens, _ = self.vit(x)  # each [N, HW, C]
            height, width = (side // VIT_S['patch_size'] for side in x.shape[2:])
            return [tokens[block].transpose([0, 2, 1]).reshape([0, -1, height, width]) for block in VIT_BLOCKS]

    return Maps()


def measure(model, size: int) -> dict[str, float]:
    """Best seconds by the clock and of the processor, and how much memory came on top of what was resident."""
    import paddle

    model.eval()
    clock, processor = [], []
    with paddle.no_grad():
        model(paddle.randn([1, 3, SETTLING, SETTLING]))
        image = paddle.randn([1, 3, size, size])
        before = memory('VmRSS')
        reset_peak_memory()
        begin = time.perf_counter()
        while not clock or len(clock) < ROUNDS and time.perf_counter() - begin < SECONDS:
            start, processor_start = time.perf_counter(), time.process_time()
            model(image)
            clock.append(time.perf_counter() - start)
            processor.append(time.process_time() - processor_start)
    return {'clock_seconds': min(clock), 'seconds': min(processor), 'bytes': peak_memory() - before}


def main(arguments: list[str]) -> int:
    from paddleseg_ext.environment import choose_matrix_kernels

    name, part, size = arguments[0], arguments[1], int(arguments[2])
    answers = take_standard_output()
    choose_matrix_kernels()
    print(json.dumps(measure(build(name, part, size), size)), file=answers, flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

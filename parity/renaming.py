"""The same weights under the names and in the layout of programs that cannot be run here."""
from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch

__all__ = ['authors_segmentor', 'paddleclas']


def paddleclas(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm's weights as PaddleClas keeps them: the same names, linear maps as [in, out]."""
    return {name: np.ascontiguousarray(array.T) if array.ndim == 2 else array for name, array in weights.items()}


# From mmsegmentation 1.x to the backbone of the authors, which has timm's names; the heads' names did not change.
AUTHORS = (
    (r'backbone\.patch_embeds\.(\d+)\.projection\.', r'backbone.patch_embeds.\1.proj.'),
    (r'backbone\.position_encodings\.(\d+)\.proj\.', r'backbone.pos_block.\1.proj.0.'),
    (r'backbone\.layers\.(\d+)\.(\d+)\.attn\.attn\.out_proj\.', r'backbone.blocks.\1.\2.attn.proj.'),
    (r'backbone\.layers\.(\d+)\.(\d+)\.ffn\.layers\.0\.0\.', r'backbone.blocks.\1.\2.mlp.fc1.'),
    (r'backbone\.layers\.(\d+)\.(\d+)\.ffn\.layers\.1\.', r'backbone.blocks.\1.\2.mlp.fc2.'),
    (r'backbone\.layers\.(\d+)\.(\d+)\.', r'backbone.blocks.\1.\2.'),
)
JOINED = re.compile(r'(backbone\.)layers(\.\d+\.\d+\.attn\.)attn\.in_proj_(weight|bias)')


def authors_segmentor(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """mmsegmentation 1.x's weights of a segmentor under the names of the authors' for mmsegmentation 0.x."""
    renamed = {}
    for name, value in state.items():
        joined = JOINED.fullmatch(name)
        if joined:
            channels = len(value) // 3
            beginning = f'{joined[1]}blocks{joined[2]}'
            renamed[f'{beginning}q.{joined[3]}'] = value[:channels].clone()
            renamed[f'{beginning}kv.{joined[3]}'] = value[channels:].clone()
            continue
        for pattern, replacement in AUTHORS:
            if re.match(pattern, name):
                name = re.sub(pattern, replacement, name)
                break
        renamed[name] = value
    return renamed

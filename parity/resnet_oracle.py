"""timm's ResNets and mmsegmentation's over its plain ResNet: the judges of our numbers."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import timm
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from resnet_sources import LOGITS, MAPS, TIMM_NAMES
from torch import nn

__all__ = ['classifier', 'outputs', 'segmentor']


def classifier(name: str, *, widths: Sequence[int] | None = None, num_classes: int = 1000) -> nn.Module:
    """timm's classifier for our `name`; `widths` replaces those of the 3×3 convolutions, from 64 on."""
    channels = {} if widths is None else {'channels': tuple(widths)}
    return timm.create_model(TIMM_NAMES[name], num_classes=num_classes, **channels).eval()


@torch.inference_mode()
def outputs(judge: nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """Logits and the map of every stage of timm's classifier, by their kind."""
    x = torch.from_numpy(images)
    maps = judge.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)
    return {LOGITS: judge(x).numpy(), **{kind: value.numpy() for kind, value in zip(MAPS, maps)}}


def segmentor(depth: int, channels: Sequence[int], *, num_classes: int = 150) -> nn.Module:
    """mmsegmentation's Panoptic FPN over its plain ResNet of this depth, with maps of these channels."""
    init_default_scope('mmseg')
    norm = {'type': 'BN', 'requires_grad': True}
    return MODELS.build({
        'type': 'EncoderDecoder',
        'backbone': {'type': 'ResNet', 'depth': depth, 'norm_cfg': norm},
        'neck': {'type': 'FPN', 'in_channels': list(channels), 'out_channels': 256, 'num_outs': 4},
        'decode_head': {'type': 'FPNHead', 'in_channels': [256] * 4, 'in_index': [0, 1, 2, 3], 'channels': 128,
                        'feature_strides': [4, 8, 16, 32], 'num_classes': num_classes, 'norm_cfg': norm,
                        'align_corners': False},
        'test_cfg': {'mode': 'whole'},
    }).eval()

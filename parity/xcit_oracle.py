"""timm's XCiT classifiers, and segmentors made of them as the authors' are: the judges of our numbers.

The authors' segmentors need mmsegmentation 0.x. Here their parts are put together again: timm's blocks, PyTorch's
layers for the pyramid, mmsegmentation 1.x's necks and heads, under the authors' names.
"""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import timm
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn
from twins_sources import AUXILIARY
from xcit_sources import PUBLISHED_INDICES, TIMM_NAMES

__all__ = ['Segmentor', 'authors_names', 'classifier', 'logits']


def classifier(name: str, *, channels: int | None = None, num_classes: int = 1000) -> nn.Module:
    """timm's classifier for our `name`; `channels` replaces those of the variant."""
    widths = {} if channels is None else {'embed_dim': channels}
    return timm.create_model(TIMM_NAMES[name], num_classes=num_classes, **widths).eval()


class Segmentor(nn.Module):
    """The authors' segmentor for our backbone `name` and our `head`, 'SemanticFPN' or 'UPerNetMMSeg'."""

    def __init__(self, name: str, head: str, *, num_classes: int = 150):
        super().__init__()
        self.backbone = classifier(name)
        width = self.backbone.embed_dim
        self._add_pyramid(width, self.backbone.patch_embed.patch_size)
        self.neck, self.decode_head, self.auxiliary_head = _heads(head, width, num_classes)
        self.eval()

    def _add_pyramid(self, width: int, patch: int) -> None:
        def up():
            return nn.ConvTranspose2d(width, width, 2, stride=2)

        steps = [nn.Sequential(up(), nn.BatchNorm2d(width), nn.GELU(), up()), nn.Sequential(up()), nn.Identity(),
                 nn.MaxPool2d(2)] if patch == 16 else \
                [nn.Sequential(up()), nn.Identity(), nn.MaxPool2d(2), nn.MaxPool2d(4)]
        for index, step in enumerate(steps, 1):
            setattr(self.backbone, f'fpn{index}', step)

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        indices = PUBLISHED_INDICES[len(self.backbone.blocks)]
        tokens = self.backbone.forward_intermediates(x, indices=list(indices), intermediates_only=True)
        return [getattr(self.backbone, f'fpn{index}')(each) for index, each in enumerate(tokens, 1)]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.maps(x)
        main = self.decode_head(maps if self.neck is None else self.neck(maps))
        outputs = {'main': nn.functional.interpolate(main, x.shape[2:], mode='bilinear', align_corners=False)}
        if self.auxiliary_head is not None:
            outputs[AUXILIARY] = self.auxiliary_head(maps)
        return outputs


def _heads(head: str, width: int, num_classes: int) -> tuple:
    init_default_scope('mmseg')
    shared = {'num_classes': num_classes, 'dropout_ratio': 0.1, 'norm_cfg': {'type': 'BN'}, 'align_corners': False,
              'in_index': [0, 1, 2, 3]}
    if head == 'SemanticFPN':
        neck = MODELS.build({'type': 'FPN', 'in_channels': [width] * 4, 'out_channels': width, 'num_outs': 4})
        main = MODELS.build({'type': 'FPNHead', 'in_channels': [width] * 4, 'channels': 128,
                             'feature_strides': [4, 8, 16, 32], **shared})
        return neck, main, None
    main = MODELS.build({'type': 'UPerHead', 'in_channels': [width] * 4, 'channels': 512, 'pool_scales': (1, 2, 3, 6),
                         **shared})
    auxiliary = MODELS.build({**shared, 'type': 'FCNHead', 'in_channels': width, 'in_index': 2, 'channels': 256,
                              'num_convs': 1, 'concat_input': False})
    return None, main, auxiliary


def authors_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dictionary in timm's names under those of the authors' code: classifiers, and backbones in segmentors.

    The segmentors' backbones have no classifier, so what timm has of it is left out there.
    """
    segmentor = any(name.startswith('decode_head.') for name in state)
    unused = tuple(f'backbone.{part}' for part in ('cls_token', 'cls_attn_blocks.', 'norm.', 'head.'))
    renamed = {}
    for name, value in state.items():
        if segmentor and name.startswith(unused):
            continue
        if '.attn.q.' in name:
            parts = [state[name.replace('.attn.q.', f'.attn.{letter}.')] for letter in 'qkv']
            renamed[name.replace('.attn.q.', '.attn.qkv.')] = torch.cat(parts)
        elif '.attn.k.' not in name and '.attn.v.' not in name:
            renamed[name.replace('pos_embed.', 'pos_embeder.')] = value
    return renamed


@torch.inference_mode()
def logits(judge: nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """The logits of `images` [N, C, H, W] under 'main', and under AUXILIARY those of a segmentor's auxiliary head."""
    outputs = judge(torch.from_numpy(images))
    outputs = outputs if isinstance(outputs, dict) else {'main': outputs}
    return {kind: value.numpy() for kind, value in outputs.items()}

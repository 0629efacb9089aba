"""timm's Twins classifiers and mmsegmentation's Twins segmentors with given weights: the judges of our numbers."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import mmseg
import mmseg.models
import numpy as np
import timm
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from twins_sources import AUXILIARY, TIMM_NAMES

__all__ = ['Judge', 'classifier', 'fill', 'logits', 'segmentor', 'shapes']

CONFIGS = Path(mmseg.__file__).parent / '.mim' / 'configs' / 'twins'
# What the packaged configurations call our heads.
HEADS = {'SemanticFPN': 'fpn_fpnhead', 'UPerNetMMSeg': 'uperhead'}

Judge = torch.nn.Module


def classifier(name: str, *, channels: Sequence[int] | None = None, num_classes: int = 1000) -> Judge:
    """timm's classifier for our `name`; `channels` replaces those of the variant."""
    widths = {} if channels is None else {'embed_dims': tuple(channels)}
    return timm.create_model(TIMM_NAMES[name], num_classes=num_classes, **widths).eval()


def segmentor(name: str, head: str, *, num_classes: int = 150, channels: Sequence[int] | None = None,
              widths: Mapping[str, int] | None = None) -> Judge:
    """mmsegmentation's segmentor for our backbone `name` and our `head`, from its packaged configuration.

    Args:
        channels: of the backbone's maps, for those of the variant.
        widths: of necks and heads, under our names of the arguments, for those of the configuration.
    """
    short = name.removeprefix('Twins_').lower().replace('_', '-')
    [path] = CONFIGS.glob(f'twins_{short}_{HEADS[head]}_*.py')
    model = Config.fromfile(path).model
    model.data_preprocessor = None
    model.backbone.init_cfg = None
    for part in (model.decode_head, model.get('auxiliary_head')):
        if part is not None:
            part.norm_cfg = {'type': 'BN', 'requires_grad': True}
            part.num_classes = num_classes
    if channels is not None:
        _set_widths(model, list(channels), widths)
    init_default_scope('mmseg')
    return MODELS.build(model).eval()


def _set_widths(model: Config, channels: list[int], widths: Mapping[str, int]) -> None:
    model.backbone.embed_dims = channels
    if 'neck' in model:
        model.neck.in_channels = channels
        model.neck.out_channels = widths['fpn_channels']
        model.decode_head.in_channels = [widths['fpn_channels']] * len(channels)
        model.decode_head.channels = widths['head_channels']
    else:
        model.decode_head.in_channels = channels
        model.decode_head.channels = widths['channels']
        model.auxiliary_head.in_channels = channels[model.auxiliary_head.in_index]
        model.auxiliary_head.channels = widths['aux_channels']


def shapes(judge: Judge) -> dict[str, tuple[int, ...]]:
    """Names and shapes of everything in its state dictionary."""
    return {name: tuple(value.shape) for name, value in judge.state_dict().items()}


def fill(judge: Judge, weights: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Load all of its weights, and return them as its own code would save them."""
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    judge.load_state_dict(tensors, strict=True)
    return judge.state_dict()


@torch.inference_mode()
def logits(judge: Judge, images: np.ndarray) -> dict[str, np.ndarray]:
    """The logits of `images` [N, C, H, W], and under AUXILIARY those of the auxiliary head where there is one.

    A segmentor's main logits have the images' size, the auxiliary ones that of their map.
    """
    x = torch.from_numpy(images)
    if not hasattr(judge, 'encode_decode'):
        return {'main': judge(x).numpy()}
    size = {'ori_shape': images.shape[2:], 'img_shape': images.shape[2:], 'pad_shape': images.shape[2:]}
    outputs = {'main': judge.encode_decode(x, [size] * len(images)).numpy()}
    if judge.with_auxiliary_head:
        outputs[AUXILIARY] = judge.auxiliary_head(judge.extract_feat(x)).numpy()
    return outputs


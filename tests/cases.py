"""The one table of our models in variants with tiny widths, and what several tests need of them.

A new architecture adds its rows; `test_contract.py` then holds it to what every segmentor of ours must do.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable

import numpy as np
import paddle

import paddleseg_ext.components  # noqa: F401  NOTE: imported for its effect, it registers every component
from paddleseg_ext.backbones import resnet, xcit
from paddleseg_ext.backbones.twins import Twins, Variant
from paddleseg_ext.backbones.vt_resnet import VTResNet
from paddleseg_ext.registry import components

__all__ = ['CASES', 'Case', 'arrays_of', 'images', 'relative_difference', 'set_visible_weights', 'visible']

CLASSES = 5


@dataclass(frozen=True)
class Case:
    """One variant of a model.

    Attributes:
        name: of the variant, unique in CASES.
        model: registered name.
        minimum: smallest height and width in pixels.
        outputs: logits in training.
        arguments: of the constructor, besides `num_classes` and `in_channels` or `backbone`.
        backbone: makes the backbone from `in_channels`, for models that take one.
    """

    name: str
    model: str
    minimum: int
    outputs: int
    arguments: dict = field(default_factory=dict)
    backbone: Callable[..., paddle.nn.Layer] | None = None

    @property
    def model_class(self) -> type:
        return components('model')[self.model]

    def build(self, *, in_channels: int = 3, seed: int = 0) -> paddle.nn.Layer:
        """The model in evaluation mode, with weights from `seed` that make every layer matter."""
        paddle.seed(seed)
        if self.backbone is None:
            inputs = {'in_channels': in_channels}
        else:
            inputs = {'backbone': self.backbone(in_channels=in_channels)}
        model = self.model_class(num_classes=CLASSES, **inputs, **self.arguments)
        set_visible_weights(model, seed=seed)
        model.eval()
        return model


_RTFORMER = {'base_channels': 8, 'head_channels': 8, 'spp_channels': 8, 'cross_size': 4, 'drop_path_rate': 0.,
             'lr_mult': 1.}

_HEAD, _FPN = {'channels': 8, 'dropout': 0.}, {'fpn_channels': 8, 'head_channels': 8, 'dropout': 0.}
#                channels         heads         mlp ratios    depths        local
_PCPVT = Variant((8, 16, 16, 24), (1, 2, 2, 3), (2, 2, 2, 2), (1, 2, 1, 1), False)
_SVT = Variant((8, 16, 16, 24), (1, 2, 2, 3), (2, 2, 2, 2), (2, 1, 2, 2), True)


def _pcpvt(*, in_channels: int) -> Twins:
    return Twins(_PCPVT, norm_after_stage=False, in_channels=in_channels)


def _svt(*, in_channels: int) -> Twins:
    return Twins(_SVT, norm_after_stage=True, in_channels=in_channels)


def _svt_zero(*, in_channels: int) -> Twins:
    return Twins(_SVT, norm_after_stage=True, in_channels=in_channels, lsa_padding='zero')


#                         channels depth heads scale tokens_norm patch
_XCIT_P16 = xcit.Variant(16,      4,    2,    1.,   True,       16)
_XCIT_P8 = xcit.Variant(16,       4,    4,    1.,   True,       8)


def _xcit_p16(*, in_channels: int) -> xcit.XCiT:
    return xcit.XCiT(_XCIT_P16, in_channels=in_channels)


def _xcit_p8(*, in_channels: int) -> xcit.XCiT:
    return xcit.XCiT(_XCIT_P8, in_channels=in_channels)


#                      expansion depths     widths
_BASIC = resnet.Variant(1,      (1, 2, 1, 2), (8, 8, 16, 16))
_BOTTLENECK = resnet.Variant(4, (1, 1, 1, 2), (4, 4, 4, 8))
_TOKENS = {'tokens': 5, 'token_channels': 24, 'groups': 2}
_VT_FPN = {'fpn_channels': 8, 'dropout': 0., **_TOKENS}


def _resnet(*, in_channels: int) -> resnet.ResNet:
    return resnet.ResNet(_BASIC, in_channels=in_channels)


def _vt_resnet(*, in_channels: int) -> VTResNet:
    return VTResNet(_BOTTLENECK, in_channels=in_channels, **_TOKENS)


def _vt_resnet_filter(*, in_channels: int) -> VTResNet:
    return VTResNet(_BASIC, in_channels=in_channels, tokenizer='filter', **_TOKENS)


#    name             model      min  outputs  arguments, backbone
CASES = (
    Case('rtformer', 'RTFormer', 32, 2, _RTFORMER),
    Case('rtformer_ade20k', 'RTFormer', 32, 2, {**_RTFORMER, 'cross_size': 3, 'use_injection': [True, False]}),
    Case('rtformer_ea', 'RTFormer', 32, 2, {**_RTFORMER, 'attention': 'ea'}),
    Case('rtformer_mhea', 'RTFormer', 32, 2, {**_RTFORMER, 'attention': 'mhea'}),
    Case('rtformer_no_aux', 'RTFormer', 32, 1, {**_RTFORMER, 'use_aux_head': False}),
    Case('semantic_fpn_svt', 'SemanticFPN', 32, 1, _FPN, _svt),
    Case('semantic_fpn_pcpvt', 'SemanticFPN', 32, 1, _FPN, _pcpvt),
    Case('upernet_svt', 'UPerNetMMSeg', 32, 2, {**_HEAD, 'aux_channels': 8}, _svt),
    Case('upernet_no_aux_svt_zero', 'UPerNetMMSeg', 32, 1, {**_HEAD, 'use_aux_head': False}, _svt_zero),
    Case('semantic_fpn_xcit_p8', 'SemanticFPN', 32, 1, _FPN, _xcit_p8),
    Case('upernet_xcit_p16', 'UPerNetMMSeg', 32, 2, {**_HEAD, 'aux_channels': 8}, _xcit_p16),
    Case('linear_fusion_pcpvt', 'LinearFusionSeg', 32, 1, _HEAD, _pcpvt),
    Case('vt_fpn_vt_resnet', 'VTFPN', 16, 1, _VT_FPN, _vt_resnet),
    Case('vt_fpn_convolution_resnet', 'VTFPN', 32, 1,
         {**_VT_FPN, 'relation': 'convolution', 'position_encoding': False}, _resnet),
    Case('vt_fpn_svt', 'VTFPN', 32, 1, _VT_FPN, _svt),
    Case('semantic_fpn_resnet', 'SemanticFPN', 32, 1, _FPN, _resnet),
    Case('upernet_vt_resnet_filter', 'UPerNetMMSeg', 16, 2, {**_HEAD, 'aux_channels': 8}, _vt_resnet_filter),
)


def set_visible_weights(model: paddle.nn.Layer, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Fill a model with random weights whose every part shows in the output, and return them by name.

    Fresh weights hide mistakes: statistics of batch norm are 0 and 1, biases 0, and the external attention's memory
    is so small (0.001) that its branch vanishes beside the shortcut. The values depend on the seed, the names and
    the shapes only, so two classes that agree in those get the same.
    """
    generator = np.random.default_rng(seed)
    weights = {name: _values(generator, name.split('.')[-1], tuple(tensor.shape)).astype('float32')
               for name, tensor in sorted(model.state_dict().items())}
    missing, unexpected = model.set_state_dict(weights)
    assert not missing and not unexpected
    return weights


def visible(model: paddle.nn.Layer) -> tuple[paddle.nn.Layer, dict[str, np.ndarray]]:
    """The model in evaluation with weights that all show, and these by name."""
    weights = set_visible_weights(model)
    model.eval()
    return model, weights


def arrays_of(model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """The weights of a model by name."""
    return {name: value.numpy() for name, value in model.state_dict().items()}


def _values(generator: np.random.Generator, kind: str, shape: tuple) -> np.ndarray:
    if kind == '_variance':
        return generator.uniform(0.5, 2., shape)
    if kind in ('_mean', 'bias', 'k', 'v'):
        return generator.normal(0., 0.3, shape)
    if len(shape) == 1:  # the scale of a normalisation
        return generator.uniform(0.5, 1.5, shape)
    return generator.normal(0., np.prod(shape[1:])**-0.5, shape)


def images(batch: int, size: tuple[int, int], *, channels: int = 3, seed: int = 1) -> np.ndarray:
    """Random images float32 [N, C, H, W], about standard normal as normalised images are."""
    return np.random.default_rng(seed).normal(size=(batch, channels, *size)).astype('float32')


def relative_difference(values: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute value of `expected`; NaN if either holds one."""
    assert values.shape == expected.shape, (values.shape, expected.shape)
    # NOTE: by slices, because large logits in float64 and all at once take longer than the models that made them.
    difference = np.max([np.abs(part - wanted).max() for part, wanted in zip(values, expected)])
    return float(difference / max(expected.max(), -expected.min()))

"""Counting parts of Visual Transformers and of what they replace, for `scripts.visual_transformer_costs`."""
from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import paddle
from paddle import nn

import paddleseg_ext.components  # noqa: F401  NOTE: imported for its effect, it registers our components
from paddleseg_ext.backbones.classification import create_classifier
from paddleseg_ext.backbones.vt_resnet import make_transformers
from paddleseg_ext.engine.bare_models import bare_models
from paddleseg_ext.engine.operation_count import count_macs, count_parameters
from paddleseg_ext.models.semantic_fpn import SemanticFPN
from paddleseg_ext.models.vt_fpn import VTFPN

__all__ = ['GROUPS', 'TOKENS', 'TOKEN_CHANNELS', 'Cost', 'Modules', 'Published', 'Remembering', 'StageCosts',
           'WithTokens', 'bare', 'cost', 'map_size', 'modules_cost', 'pyramid_costs', 'stage_costs_of']

CLASSES = 1000
TOKENS, TOKEN_CHANNELS, GROUPS = 16, 1024, 16
PYRAMID_STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Published:
    """Parameters in millions and multiply-accumulates in millions of a whole classifier at 224², in the paper."""

    parameters: float
    macs: float


@dataclass(frozen=True)
class Cost:
    """Trainable parameters and multiply-accumulates."""

    parameters: int
    macs: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.macs + other.macs)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.parameters - other.parameters, self.macs - other.macs)


def cost(layer: nn.Layer, *shape: int) -> Cost:
    """Of a layer over one tensor of that shape."""
    return Cost(count_parameters(layer), count_macs(layer, shape))


class Remembering(nn.Layer):
    """A backbone that runs once and gives the same maps ever after, so that a pyramid over it can be counted alone."""

    def __init__(self, backbone: nn.Layer):
        super().__init__()
        self.backbone = backbone
        self.feat_channels = backbone.feat_channels
        self.feat_strides = getattr(backbone, 'feat_strides', PYRAMID_STRIDES)
        self.maps = None

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        if self.maps is None:
            self.maps = self.backbone(x)
        return self.maps


def pyramid_costs(backbone: nn.Layer, size: Sequence[int], num_classes: int) -> tuple[Cost, Cost, Cost]:
    """Of a backbone alone, and of SemanticFPN and VTFPN over it without it."""
    remembering = Remembering(backbone)
    alone = cost(remembering, 1, 3, *size)
    pyramids = [cost(model(num_classes, remembering), 1, 3, *size) for model in (SemanticFPN, VTFPN)]
    return alone, *(Cost(each.parameters - alone.parameters, each.macs) for each in pyramids)


@dataclass(frozen=True)
class StageCosts:
    """Of a ResNet and its VT-ResNet at one size.

    Attributes:
        trunk: what both have, stem and three stages.
        convolutions: the last stage of the ResNet.
        modules: the visual transformers in its place.
        heads: the linear maps of the ResNet and of the VT-ResNet.
    """

    trunk: Cost
    convolutions: Cost
    modules: Cost
    heads: tuple[Cost, Cost]

    @property
    def wholes(self) -> tuple[Cost, Cost]:
        return self.trunk + self.convolutions + self.heads[0], self.trunk + self.modules + self.heads[1]

    def implied(self, published: Published) -> Published:
        """What is left to the modules of the published totals."""
        rest = self.trunk + self.heads[1]
        return Published(published.parameters - rest.parameters / 1e6, published.macs - rest.macs / 1e6)


@functools.cache
def stage_costs_of(depth: int, size: tuple[int, int]) -> StageCosts:
    """Of ResNet-`depth` and VT-ResNet-`depth`."""
    with bare():
        plain, tokens = (create_classifier(f'{family}{depth}', num_classes=CLASSES)
                         for family in ('ResNet', 'VT_ResNet'))
    stem, stages = plain.backbone.stem, list(plain.backbone.stages)
    trunk, stages = (cost(nn.Sequential(stem, *stages[:count]), 1, 3, *size) for count in (3, 4))
    heads = tuple(cost(model.head, 1, model.head.weight.shape[0]) for model in (plain, tokens))
    modules = cost(tokens, 1, 3, *size) - trunk - heads[1]
    return StageCosts(trunk, stages - trunk, modules, heads)


class WithTokens(nn.Layer):
    """A layer over a map and tokens, as one over the map, so that it can be counted."""

    def __init__(self, layer: nn.Layer, shape: Sequence[int]):
        super().__init__()
        self.layer = layer
        self.shape = list(shape)

    def forward(self, x: paddle.Tensor):
        return self.layer(x, paddle.zeros(self.shape))


class Modules(nn.Layer):
    """The modules of a VT-ResNet's classifier by themselves."""

    def __init__(self, channels: int, count: int, *, tokens: int = TOKENS, token_channels: int = TOKEN_CHANNELS,
                 groups: int = GROUPS, tokenizer: str = 'recurrent', relation: str = 'transformer',
                 position_encoding: bool = True, project: bool = False):
        super().__init__()
        self.chain = make_transformers(channels, count, tokens=tokens, token_channels=token_channels, groups=groups,
                                       tokenizer=tokenizer, relation=relation, position_encoding=position_encoding,
                                       project=project)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        tokens = None
        for module in self.chain:
            x, tokens = module(x, tokens)
        return tokens


def modules_cost(channels: int, count: int, size: Sequence[int], change: Callable[[Modules], None] | None = None,
                 **arguments) -> Cost:
    """Of `count` modules over the map of stride 16 of an image of that size, changed so."""
    modules = Modules(channels, count, **arguments)
    if change is not None:
        change(modules)
    return cost(modules, 1, channels, *map_size(size))


def map_size(size: Sequence[int]) -> list[int]:
    """Height and width of the map of stride 16."""
    return [-(-length // 16) for length in size]


@contextlib.contextmanager
def bare() -> Iterator[None]:
    """Without initial weights, and without what PaddleSeg prints about weights that are not pretrained."""
    with contextlib.redirect_stdout(io.StringIO()), bare_models():
        yield

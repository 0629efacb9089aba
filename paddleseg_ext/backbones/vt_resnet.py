"""VT-ResNet: a ResNet whose last stage is made of visual transformers, which work on a few tokens instead of pixels.

Paper: "Visual Transformers: Token-based Image Representation and Processing for Computer Vision", arXiv 2006.03677. Its
authors published neither code nor weights, so this is built from the equations. `pretrained` takes released weights of
ResNets for the convolutional stages; the visual transformers start fresh then.

What the paper leaves open, and what is chosen here; the parts of a module say their own choices (`tokenizers`,
`token_relations` and `projector` in `paddleseg_ext.layers`):
- the modules work on the map of stride 16 with its own channels, 256 or 1024, and no convolution between;
- the first module has the filter-based tokenizer, the later ones the recurrent one, or with `tokenizer: filter` all the
  first;
- group convolutions, 16 groups, where a matrix meets every position (W_Q of the projector) or stands for attention (W_V
  of the tokenizer, K and Q of the transformer); the others are dense. So the modules of the classifier over
  ResNet-101 have 13.1 M parameters, where the published total leaves 12.9 M;
- a layer norm stands behind the transformer of every module (`TokenNorm`, an addition to the equations);
- the backbone gives the map of stride 16 twice, before the modules and behind the last projector, in place of one of
  stride 32;
- the classifier has no projector in its last module, because nothing would read it.

Letters: N batch, L tokens, T token channels.
"""
from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import paddle
from paddle import nn

from paddleseg_ext.backbones import resnet
from paddleseg_ext.backbones.classification import register_classifier
from paddleseg_ext.checkpoints.pretrained import load_pretrained
from paddleseg_ext.layers.sizes import require_channels, require_size
from paddleseg_ext.layers.visual_transformer import VisualTransformer, check_token_arguments
from paddleseg_ext.registry import register

__all__ = ['TOKENIZERS', 'VARIANTS', 'VTResNet', 'VTResNetClassifier', 'make_transformers']

STRIDES = (4, 8, 16, 16)
TOKENIZERS = ('recurrent', 'filter')

# Section 4.1 of the paper: the ResNet, and how many modules replace its last stage, as many as that had blocks.
VARIANTS = {f'VT_{name}': variant for name, variant in resnet.VARIANTS.items()}


def make_transformers(channels: int, count: int, *, tokenizer: str, project: bool, **module) -> nn.LayerList:
    """`count` modules over a map of `channels`, each behind the last; the other arguments are those of every module."""
    return nn.LayerList([VisualTransformer(channels, recurrent=tokenizer == 'recurrent' and index > 0,
                                           project=project or index < count - 1, **module) for index in range(count)])


class VTResNet(nn.Layer):
    """The backbone behind all variants; YAML names `VT_ResNet18` and so on.

    Args:
        variant: sizes of the ResNet; the blocks of its last stage say how many modules there are.
        project: whether the last module gives its tokens back to the pixels, which a classifier does not need.

    The others as of `VT_ResNet18` and its siblings, below.

    Shapes: [N, in_channels, H, W], H and W at least 16, to four maps of strides 4, 8, 16 and 16, rounded up.

    Raises:
        ValueError: an argument is out of its range, or an image is smaller than `minimum_size` pixels.
    """

    minimum_size = 16
    first_convolution = resnet.ResNet.first_convolution

    def __init__(self, variant: resnet.Variant, *, in_channels: int = 3, tokens: int = 16, token_channels: int = 1024,
                 groups: int = 16, tokenizer: str = 'recurrent', relation: str = 'transformer',
                 position_encoding: bool = True, project: bool = True, first_projection: bool = False,
                 drop_path_rate: float = 0., pretrained: str | None = None, pretrained_allow: Sequence[str] = ()):
        super().__init__()
        require_channels(in_channels)
        if tokenizer not in TOKENIZERS:
            raise ValueError(f'tokenizer must be one of {", ".join(TOKENIZERS)}, but is {tokenizer!r}.')
        channels = variant.channels[:-1]
        check_token_arguments(channels[-1], tokens=tokens, token_channels=token_channels, groups=groups,
                              relation=relation)
        self.feat_channels = [*channels, channels[-1]]
        self.feat_strides = list(STRIDES)
        self.stem = resnet.Stem(in_channels, variant.widths[0])
        self.stages = resnet.make_stages(variant, len(channels), first_projection=first_projection,
                                         drop_path_rate=drop_path_rate)
        self.transformers = make_transformers(
            channels[-1], variant.depths[-1], tokens=tokens, token_channels=token_channels, groups=groups,
            tokenizer=tokenizer, relation=relation, position_encoding=position_encoding, project=project,
            drop_path_rate=drop_path_rate)
        if pretrained is not None:
            load_pretrained(self, pretrained, allow=pretrained_allow)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        return self.encode(x)[0]

    def encode(self, x: paddle.Tensor):
        """The four maps, and the tokens [N, T, L] of the last module."""
        require_size(x, self.minimum_size, 'VT-ResNet')
        maps = resnet.stage_maps(self.stem, self.stages, x)
        x, tokens = maps[-1], None
        for module in self.transformers:
            x, tokens = module(x, tokens)
        return [*maps, x], tokens

    @staticmethod
    def identify(shapes: Mapping[str, Sequence[int]]) -> str | None:
        """The variant whose backbone has weights of these names and shapes, None where no variant has."""
        name = resnet.variant_of(shapes, len(STRIDES) - 1)
        return f'VT_{name}' if name and 'transformers.0.tokenizer.filters.weight' in shapes else None


class VTResNetClassifier(nn.Layer):
    """VT-ResNet with the paper's classifier: the mean of the last module's tokens, dropout and a linear map.

    Args:
        num_classes: of the logits, at least 1.
        drop_rate: dropout before the linear map, in [0, 1); 0.2 in the paper.

    The others as of the backbone; `pretrained` is the whole classifier, or that of a ResNet.

    Shapes: [N, in_channels, H, W], H and W at least 16, to logits [N, num_classes].
    """

    def __init__(self, variant: resnet.Variant, *, num_classes: int, token_channels: int = 1024, drop_rate: float = 0.,
                 pretrained: str | None = None, pretrained_allow: Sequence[str] = (), **backbone):
        super().__init__()
        self.backbone = VTResNet(variant, token_channels=token_channels, project=False, **backbone)
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(token_channels, num_classes)
        if pretrained is not None:
            load_pretrained(self, pretrained, allow=pretrained_allow)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        tokens = self.backbone.encode(x)[1]
        return self.head(self.drop(tokens.mean(axis=-1)))


def _register(name: str, variant: resnet.Variant) -> None:
    def backbone(in_channels: int = 3, tokens: int = 16, token_channels: int = 1024, groups: int = 16,
                 tokenizer: str = 'recurrent', relation: str = 'transformer', position_encoding: bool = True,
                 first_projection: bool = False, drop_path_rate: float = 0., pretrained: str | None = None,
                 pretrained_allow: Sequence[str] = ()) -> VTResNet:
        return VTResNet(variant, in_channels=in_channels, tokens=tokens, token_channels=token_channels, groups=groups,
                        tokenizer=tokenizer, relation=relation, position_encoding=position_encoding,
                        first_projection=first_projection, drop_path_rate=drop_path_rate, pretrained=pretrained,
                        pretrained_allow=pretrained_allow)

    channels = ', '.join(map(str, [*variant.channels[:-1], variant.channels[-2]]))
    backbone.__name__ = backbone.__qualname__ = name
    backbone.__doc__ = f"""VT-ResNet-{name[9:]}: four maps of strides 4, 8, 16, 16 and {channels} channels.

    Args:
        in_channels: channels of the images, at least 1; the first convolution of pretrained weights is adapted.
        tokens: of each module, at least 2; the paper has 16, in its first version 8.
        token_channels: of each token.
        groups: of the group convolutions; divides the channels of the last map and half of token_channels.
        tokenizer: of the modules behind the first: recurrent ("dynamic", from the previous tokens) or filter
            ("static").
        relation: what is done between tokens: transformer, convolution or none.
        position_encoding: tokens say where in the image they come from.
        first_projection: as of the ResNets, for PaddleClas's weights of ResNet-18 and 34.
        drop_path_rate: drop path of every block and module, in [0, 1).
        pretrained: path, address or `timm/` name of weights of a ResNet in any of the released formats, or of our own.
        pretrained_allow: patterns of weights that may be missing or left over.
    """
    register('backbone')(backbone)
    register_classifier(name, functools.partial(VTResNetClassifier, variant))


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)

"""Checkpoints of ResNet: torchvision's, timm's, paddle.vision's, PaddleClas's, mmsegmentation's and ours; of VT-ResNet
ours, and those of ResNets, whose last stage it replaces.

Sources: torchvision/models/resnet.py; timm/models/resnet.py 1.0.31; paddle/vision/models/resnet.py of Paddle 3.2.2;
ppcls/arch/backbone/legendary_models/resnet.py of PaddleClas, and before that file
ppcls/arch/backbone/model_zoo/resnet.py; mmseg/models/backbones/resnet.py 1.2.2.

Letters: s stage, b block, i convolution, m module, l a layer's name, p `weight` or `bias` or a statistic.
"""
from __future__ import annotations

from collections.abc import Sequence

from paddleseg_ext.checkpoints.formats.heads import BESIDE, HEADS, OUR_BESIDE, SPARE
from paddleseg_ext.checkpoints.rules import Format, Rename, Replacement, Rule, under

__all__ = ['FORMATS']

STAGES = 4
TRANSFORMERS = (Replacement(
    'backbone.transformers.{tail}', ('backbone.stages.3.{tail}', 'head.{p}'),
    unused='visual transformers take its place', fresh='ResNets have no visual transformers'),)
# What ResNets of other kinds have: squeeze-and-excitation, and an average pool in projected shortcuts.
OTHER_BLOCKS = ('layer1.0.se.{tail}', 'layer1.0.se_module.{tail}', 'layer2.0.downsample.2.{tail}')


def _stage(stage: int) -> tuple[Rule, ...]:
    theirs, ours = f'layer{stage + 1}.{{b}}', f'backbone.stages.{stage}.{{b}}'
    return (*(Rename(f'{theirs}.conv{i + 1}.{{p}}', f'{ours}.convs.{i}.conv.{{p}}') for i in range(3)),
            *(Rename(f'{theirs}.bn{i + 1}.{{p}}', f'{ours}.convs.{i}.bn.{{p}}') for i in range(3)),
            Rename(f'{theirs}.downsample.0.{{p}}', f'{ours}.shortcut.conv.{{p}}'),
            Rename(f'{theirs}.downsample.1.{{p}}', f'{ours}.shortcut.bn.{{p}}'))


# torchvision, timm, mmsegmentation and paddle.vision
TORCHVISION = (
    Rename('conv1.{p}', 'backbone.stem.conv1.conv.{p}'),
    Rename('bn1.{p}', 'backbone.stem.conv1.bn.{p}'),
    *(rule for stage in range(STAGES) for rule in _stage(stage)),
)
CLASSIFIER = (Rename('fc.{p}', 'head.{p}'),)


def _paddleclas(depths: Sequence[int]) -> tuple[Rule, ...]:
    """PaddleClas numbers the blocks of all stages through."""
    rules = [Rename('stem.0.{l}.{p}', 'backbone.stem.conv1.{l}.{p}')]
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    for index, (stage, block) in enumerate(places):
        ours = f'backbone.stages.{stage}.{block}'
        rules += [Rename(f'blocks.{index}.conv{{i}}.{{l}}.{{p}}', f'{ours}.convs.{{i}}.{{l}}.{{p}}'),
                  Rename(f'blocks.{index}.short.{{l}}.{{p}}', f'{ours}.shortcut.{{l}}.{{p}}')]
    return tuple(rules)


# layers   blocks of each stage   last convolution of a block
PADDLECLAS = (
    (152,  (3, 8, 36, 3),         'conv2'),
    (101,  (3, 4, 23, 3),         'conv2'),
    (50,   (3, 4, 6, 3),          'conv2'),
    (34,   (3, 4, 6, 3),          'conv1'),
    (18,   (2, 2, 2, 2),          'conv1'),
)
# By the last convolution of a block: further marks, what has no name beside ResNet_vd's stem, and the remedy.
# PaddleClas projects the first shortcut of basic blocks too, unless it is told not to.
PROJECTED = 'They belong to a backbone with first_projection: true.'
THIRD, PROJECTION = 'blocks.0.conv2.{tail}', 'blocks.0.short.conv.weight'
VERSIONS = {'conv2': (((), (), ''),),
            'conv1': (((PROJECTION,), (THIRD,), PROJECTED), ((), (THIRD, PROJECTION), ''))}

# The blocks of early PaddleClas: a letter for each, and in long stages a number from the second block on.
EARLY_NAMES = tuple((f'res{stage + 2}{letter}', stage, block) for stage in range(STAGES)
                    for block, letter in enumerate('abcdefgh'))
EARLY_NAMES += tuple((f'res4b{block}', 2, block) for block in range(1, 36))
EARLY_LAYERS = (('_conv', 'conv'), ('_batch_norm', 'bn'))
EARLY_PADDLECLAS = (
    *(Rename(f'conv.{theirs}.{{p}}', f'backbone.stem.conv1.{ours}.{{p}}') for theirs, ours in EARLY_LAYERS),
    *(Rename(f'{name}.{part}.{theirs}.{{p}}', f'backbone.stages.{stage}.{block}.{our_part}.{ours}.{{p}}')
      for name, stage, block in EARLY_NAMES for theirs, ours in EARLY_LAYERS
      for part, our_part in (('conv{i}', 'convs.{i}'), ('short', 'shortcut'))),
)

# The first norm tells PyTorch's names from Paddle's where a file does not say whose it is.
MARKS = ('conv1.weight', 'layer1.0.bn1.running_mean', 'layer3.0.conv1.weight')
PADDLE_MARKS = ('conv1.weight', 'layer1.0.bn1._mean', 'layer3.0.conv1.weight')
HEAD_MARK = 'fc.weight'
OUR_MARK, OUR_TOKENS = 'stages.0.0.convs.0.conv.weight', 'transformers.{m}.tokenizer.{tail}'
AS_OURS = (Rename('{tail}', '{tail}'),)
# The last modules of VT-ResNets, by their number: three, or in VT-ResNet-18 two.
LAST_MODULES = (2, 1)
NO_PROJECTION = 'the last visual transformer of a classifier projects nothing'


def _in_whole(*marks: str) -> tuple[str, ...]:
    return tuple('backbone.' + mark for mark in marks)


#          name                                            layout    marks and rules
CLASSIFIER_FORMATS = (
    Format('ResNet classifier of torchvision or timm',     'torch',
           (*MARKS, HEAD_MARK), (*TORCHVISION, *CLASSIFIER), unlike=OTHER_BLOCKS, beside=('fc.',),
           replaced=TRANSFORMERS),
    Format('ResNet classifier of paddle.vision',           'paddle',
           (*PADDLE_MARKS, HEAD_MARK), (*TORCHVISION, *CLASSIFIER), unlike=OTHER_BLOCKS, beside=('fc.',),
           replaced=TRANSFORMERS),
    *(Format(f'ResNet-{layers} classifier of PaddleClas',  'paddle',
             ('stem.0.conv.weight', f'blocks.{sum(depths) - 1}.{last}.conv.weight', HEAD_MARK, *marks),
             (*_paddleclas(depths), *CLASSIFIER), beside=('fc.',), replaced=TRANSFORMERS, remedy=remedy,
             unlike=('stem.2.{tail}', f'blocks.{sum(depths)}.{{tail}}', *others))
      for layers, depths, last in PADDLECLAS for marks, others, remedy in VERSIONS[last]),
    *(Format('ResNet classifier of early PaddleClas',      'paddle',
             ('conv._conv.weight', mark, 'out.weight'), (*EARLY_PADDLECLAS, Rename('out.{p}', 'head.{p}')),
             unlike=others, beside=('out.',), replaced=TRANSFORMERS, remedy=remedy)
      for mark, others, remedy in (('res2a.conv2._conv.weight', (), ''),
                                   ('res2a.short._conv.weight', ('res2a.conv2._conv.weight',), PROJECTED))),
    *(Format('VT-ResNet classifier of paddleseg_ext',      'paddle',
             _in_whole(OUR_MARK, f'transformers.{last}.tokenizer.{{tail}}') + ('head.weight',), AS_OURS,
             beside=('head.',), absent=((f'backbone.transformers.{last}.projector.{{tail}}', NO_PROJECTION),))
      for last in LAST_MODULES),
    Format('ResNet classifier of paddleseg_ext',           'paddle',
           (*_in_whole(OUR_MARK), 'head.weight'), AS_OURS, beside=('head.',), replaced=TRANSFORMERS),
)
SEGMENTOR_FORMATS = (
    Format('ResNet segmentor of mmsegmentation',           'torch',
           (*_in_whole(*MARKS), 'decode_head.{tail}'), (*under('backbone.', TORCHVISION), *HEADS),
           unlike=_in_whole(*OTHER_BLOCKS), beside=BESIDE, spare=SPARE, replaced=TRANSFORMERS),
    Format('VT-ResNet segmentor of paddleseg_ext',         'paddle',
           _in_whole(OUR_MARK, OUR_TOKENS), AS_OURS, beside=OUR_BESIDE, spare=SPARE),
    Format('ResNet segmentor of paddleseg_ext',            'paddle',
           _in_whole(OUR_MARK), AS_OURS, beside=OUR_BESIDE, spare=SPARE, replaced=TRANSFORMERS),
)
BARE_FORMATS = (
    Format('ResNet backbone of torchvision, timm or mmsegmentation', 'torch',
           MARKS, TORCHVISION, unlike=OTHER_BLOCKS, replaced=TRANSFORMERS),
    Format('ResNet backbone of paddle.vision',             'paddle',
           PADDLE_MARKS, TORCHVISION, unlike=OTHER_BLOCKS, replaced=TRANSFORMERS),
    Format('VT-ResNet backbone of paddleseg_ext',          'paddle',
           (OUR_MARK, OUR_TOKENS), (Rename('{tail}', 'backbone.{tail}'),)),
    Format('ResNet backbone of paddleseg_ext',             'paddle',
           (OUR_MARK,), (Rename('{tail}', 'backbone.{tail}'),), replaced=TRANSFORMERS),
)
FORMATS = (*CLASSIFIER_FORMATS, *SEGMENTOR_FORMATS, *BARE_FORMATS)

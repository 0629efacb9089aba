"""Checkpoints of XCiT: timm's, the authors' (ImageNet, DINO, segmentors), PaddleViT's and ours.

Sources: timm/models/xcit.py 1.0.31; xcit.py and semantic_segmentation/backbone/xcit.py of
github.com/facebookresearch/xcit; main_dino.py of github.com/facebookresearch/dino; image_classification/XCiT of
github.com/BR-IDL/PaddleViT.

Letters: b block, i position in a sequence, l a layer's name, p `weight` or `bias`.
"""
from __future__ import annotations

from paddleseg_ext.checkpoints.formats.heads import BESIDE, HEADS, OUR_BESIDE, SPARE
from paddleseg_ext.checkpoints.rules import Drop, Format, Rename, Split, under

__all__ = ['FORMATS']

# A patch embedding has three or four convolutions with batch norms; GELU stands between them and takes a number.
CONVOLUTIONS = 4
NO_PYRAMID = (('pyramid.{tail}', 'only segmentors have the pyramid behind the blocks'),)

# What all sources call the same
BLOCKS = (
    *(Rename(f'patch_embed.proj.{2 * index}.{part}.{{p}}', f'backbone.patch_embed.{index}.{ours}.{{p}}')
      for index in range(CONVOLUTIONS) for part, ours in ((0, 'conv'), (1, 'bn'))),
    Rename('blocks.{b}.local_mp.{l}.{p}', 'backbone.blocks.{b}.local.{l}.{p}'),
    Rename('blocks.{tail}', 'backbone.blocks.{tail}'),
)
TIMM = (Rename('pos_embed.token_projection.{p}', 'backbone.position.proj.{p}'), *BLOCKS)
AUTHORS = (Rename('pos_embeder.token_projection.{p}', 'backbone.position.proj.{p}'), *BLOCKS)
PYRAMID = (
    Rename('fpn1.0.{p}', 'backbone.pyramid.0.up1.{p}'),
    Rename('fpn1.1.{p}', 'backbone.pyramid.0.bn.{p}'),
    Rename('fpn1.3.{p}', 'backbone.pyramid.0.up2.{p}'),
    Rename('fpn2.0.{p}', 'backbone.pyramid.1.up1.{p}'),
)
CLASSIFIER = (
    Rename('cls_token', 'cls_token'),
    Rename('cls_attn_blocks.{tail}', 'class_blocks.{tail}'),
    Rename('norm.{p}', 'norm.{p}'),
    Rename('head.{p}', 'head.{p}'),
)


def _joined(axis: int) -> tuple[Split, ...]:
    """The authors project q, k and v of class attention at once, although only the class token asks."""
    return tuple(Split(f'cls_attn_blocks.{{b}}.attn.qkv.{part}',
                       tuple((f'class_blocks.{{b}}.attn.{letter}.{part}', 1) for letter in 'qkv'), axis)
                 for part in ('weight', 'bias'))


JOINED, JOINED_IN_COLUMNS = _joined(0), _joined(-1)
BESIDE_BACKBONE = ('cls_token', 'class_blocks.', 'cls_attn_blocks.', 'norm.', 'head.')
DINO = 'the head of self-supervised training'

TIMM_MARK, AUTHORS_MARK, OUR_MARK = ('pos_embed.token_projection.weight', 'pos_embeder.token_projection.weight',
                                     'patch_embed.0.conv.weight')
ATTENTION_MARK, HEAD_MARK = 'blocks.0.attn.temperature', 'head.weight'

#          name                                            layout    marks and rules
CLASSIFIER_FORMATS = (
    Format('XCiT classifier of timm',                      'torch',
           (TIMM_MARK, ATTENTION_MARK), (*TIMM, *CLASSIFIER), beside=BESIDE_BACKBONE, absent=NO_PYRAMID),
    Format('XCiT classifier of its authors',               'torch',
           (AUTHORS_MARK, ATTENTION_MARK, HEAD_MARK), (*AUTHORS, *JOINED, *CLASSIFIER), beside=BESIDE_BACKBONE,
           absent=NO_PYRAMID),
    Format('XCiT of its authors without head (DINO)',      'torch',
           (AUTHORS_MARK, ATTENTION_MARK, 'cls_token'), (*AUTHORS, *JOINED, *CLASSIFIER), beside=BESIDE_BACKBONE,
           absent=NO_PYRAMID),
    Format('XCiT and its head in training with DINO',      'torch',
           ('backbone.' + AUTHORS_MARK, 'backbone.cls_token', 'head.last_layer.{tail}'),
           (*under('backbone.', (*AUTHORS, *JOINED, *CLASSIFIER)), Drop('head.{tail}', DINO)),
           beside=BESIDE_BACKBONE, absent=NO_PYRAMID),
    Format('XCiT classifier of PaddleViT',                 'paddle',
           (AUTHORS_MARK, ATTENTION_MARK, HEAD_MARK), (*AUTHORS, *JOINED_IN_COLUMNS, *CLASSIFIER),
           beside=BESIDE_BACKBONE, absent=NO_PYRAMID),
    Format('XCiT classifier of paddleseg_ext',             'paddle',
           ('backbone.' + OUR_MARK, 'cls_token', 'class_blocks.0.norm1.weight'), (Rename('{tail}', '{tail}'),),
           beside=BESIDE_BACKBONE, absent=NO_PYRAMID),
)
SEGMENTOR_FORMATS = (
    Format('XCiT segmentor of its authors',                'torch',
           ('backbone.' + AUTHORS_MARK, 'backbone.fpn1.0.weight'),
           (*under('backbone.', (*AUTHORS, *PYRAMID)), *HEADS), beside=BESIDE, spare=SPARE),
    Format('XCiT segmentor of paddleseg_ext',              'paddle',
           ('backbone.' + OUR_MARK, 'backbone.pyramid.0.up1.weight'), (Rename('{tail}', '{tail}'),),
           beside=OUR_BESIDE, spare=SPARE),
)
BARE_FORMATS = (
    Format('XCiT backbone of paddleseg_ext',               'paddle',
           (OUR_MARK, ATTENTION_MARK), (Rename('{tail}', 'backbone.{tail}'),)),
)
FORMATS = (*CLASSIFIER_FORMATS, *SEGMENTOR_FORMATS, *BARE_FORMATS)

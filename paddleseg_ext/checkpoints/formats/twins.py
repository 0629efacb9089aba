"""Checkpoints of Twins: timm's, the authors', mmsegmentation's, PaddleClas's and ours.

Sources: timm/models/twins.py 1.0.31; gvt.py and segmentation/gvt.py of github.com/Meituan-AutoML/Twins;
mmseg/models/backbones/twins.py 1.2.2 and tools/model_converters/twins2mmseg.py; ppcls/arch/backbone/model_zoo/gvt.py.

Letters: s stage, b block, p `weight` or `bias`, l a layer's name.
"""
from __future__ import annotations

from paddleseg_ext.checkpoints.formats.heads import BESIDE, HEADS, OUR_BESIDE, SPARE
from paddleseg_ext.checkpoints.rules import Drop, Format, Rename, Split, under

__all__ = ['FORMATS']

UNUSED_CLASSIFIER = 'the ImageNet classifier, which the segmentor carries and does not use'

# timm, PaddleClas, and the authors' ImageNet and segmentation code
AUTHORS = (
    Rename('patch_embeds.{s}.{l}.{p}', 'backbone.stages.{s}.patch_embed.{l}.{p}'),
    Rename('blocks.{s}.{b}.{tail}', 'backbone.stages.{s}.blocks.{b}.{tail}'),
    Rename('pos_block.{s}.proj.0.{p}', 'backbone.stages.{s}.position.proj.{p}'),
    Rename('norm_list.{s}.{p}', 'backbone.stages.{s}.norm.{p}'),
)
# mmsegmentation: global attention is a torch.nn.MultiheadAttention, whose projections of q, k and v are one array
MMSEGMENTATION = (
    Rename('patch_embeds.{s}.projection.{p}', 'backbone.stages.{s}.patch_embed.proj.{p}'),
    Rename('patch_embeds.{s}.norm.{p}', 'backbone.stages.{s}.patch_embed.norm.{p}'),
    *(Split(f'layers.{{s}}.{{b}}.attn.attn.in_proj_{part}',
            ((f'backbone.stages.{{s}}.blocks.{{b}}.attn.q.{part}', 1),
             (f'backbone.stages.{{s}}.blocks.{{b}}.attn.kv.{part}', 2))) for part in ('weight', 'bias')),
    Rename('layers.{s}.{b}.attn.attn.out_proj.{p}', 'backbone.stages.{s}.blocks.{b}.attn.proj.{p}'),
    Rename('layers.{s}.{b}.attn.{l}.{p}', 'backbone.stages.{s}.blocks.{b}.attn.{l}.{p}'),
    Rename('layers.{s}.{b}.ffn.layers.0.0.{p}', 'backbone.stages.{s}.blocks.{b}.mlp.fc1.{p}'),
    Rename('layers.{s}.{b}.ffn.layers.1.{p}', 'backbone.stages.{s}.blocks.{b}.mlp.fc2.{p}'),
    Rename('layers.{s}.{b}.{l}.{p}', 'backbone.stages.{s}.blocks.{b}.{l}.{p}'),
    Rename('position_encodings.{s}.proj.{p}', 'backbone.stages.{s}.position.proj.{p}'),
    Rename('norm_list.{s}.{p}', 'backbone.stages.{s}.norm.{p}'),
)
CLASSIFIER = (Rename('norm.{p}', 'norm.{p}'), Rename('head.{p}', 'head.{p}'))
NO_STAGE_NORM = (('backbone.stages.{s}.norm.{p}', 'ImageNet classifiers have no norm after the stages'),)

AUTHORS_MARKS = ('patch_embeds.0.proj.weight', 'pos_block.0.proj.0.weight')
MMSEGMENTATION_MARKS = ('patch_embeds.0.projection.weight', 'position_encodings.0.proj.weight')
# Its norms have PyTorch's epsilon.
AS_MMSEGMENTATION = (('norm_epsilon', 1e-5),)
OUR_MARK = 'stages.0.patch_embed.proj.weight'


def _in_segmentor(*marks: str) -> tuple[str, ...]:
    return tuple('backbone.' + mark for mark in marks)


#          name                                            layout    marks and rules
CLASSIFIER_FORMATS = (
    Format('Twins classifier of timm or of its authors',   'torch',
           AUTHORS_MARKS, (*AUTHORS, *CLASSIFIER), beside=('norm.', 'head.'), absent=NO_STAGE_NORM),
    Format('Twins classifier of PaddleClas',               'paddle',
           AUTHORS_MARKS, (*AUTHORS, *CLASSIFIER), beside=('norm.', 'head.'), absent=NO_STAGE_NORM),
    Format('Twins classifier of paddleseg_ext',            'paddle',
           (*_in_segmentor(OUR_MARK), 'norm.weight', 'head.weight'), (Rename('{tail}', '{tail}'),),
           beside=('norm.', 'head.'), absent=NO_STAGE_NORM),
)
SEGMENTOR_FORMATS = (
    Format('Twins segmentor of its authors',               'torch',
           _in_segmentor(*AUTHORS_MARKS),
           (*under('backbone.', AUTHORS), Drop('backbone.norm.{p}', UNUSED_CLASSIFIER),
            Drop('backbone.head.{p}', UNUSED_CLASSIFIER), *HEADS), beside=BESIDE, spare=SPARE),
    Format('Twins segmentor of mmsegmentation',            'torch',
           _in_segmentor(*MMSEGMENTATION_MARKS), (*under('backbone.', MMSEGMENTATION), *HEADS),
           beside=BESIDE, spare=SPARE, settings=AS_MMSEGMENTATION),
    Format('Twins segmentor of paddleseg_ext',             'paddle',
           _in_segmentor(OUR_MARK), (Rename('{tail}', '{tail}'),), beside=OUR_BESIDE,
           spare=SPARE),
)
BARE_FORMATS = (
    Format('Twins ImageNet backbone of mmsegmentation',    'torch',
           MMSEGMENTATION_MARKS,
           (*MMSEGMENTATION, Drop('norm.{p}', 'the norm of the ImageNet classifier, of which the rest is not there')),
           absent=NO_STAGE_NORM),
    Format('Twins backbone of paddleseg_ext',              'paddle',
           (OUR_MARK,), (Rename('{tail}', 'backbone.{tail}'),)),
)
FORMATS = (*CLASSIFIER_FORMATS, *SEGMENTOR_FORMATS, *BARE_FORMATS)

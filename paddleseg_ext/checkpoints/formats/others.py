"""Checkpoints of architectures that are not ours, as far as a message can say what they are."""
from __future__ import annotations

__all__ = ['LOOKS']

#   what it is                              names that all have
LOOKS = (
    ('a Swin Transformer',                  ('patch_embed.proj.weight', 'layers.{tail}.relative_position_bias_table')),
    ('a Swin Transformer segmentor',        ('backbone.{tail}.relative_position_bias_table',)),
    ('a PVT classifier',                    ('pos_embed1', 'patch_embed1.proj.weight')),
    ('a SegFormer or MiT backbone',         ('patch_embed1.proj.weight', 'block1.0.attn.q.weight')),
    ('a SegFormer segmentor',               ('backbone.patch_embed1.proj.weight', 'backbone.block1.0.attn.q.weight')),
    ('a ViT or DeiT classifier',            ('cls_token', 'patch_embed.proj.weight', 'blocks.0.attn.qkv.weight')),
    ('a ResNet with a deep stem, such as ResNet-C or ResNet-D', ('conv1.0.weight', 'layer1.0.conv1.weight')),
    ('a ResNet with a deep stem, such as ResNet-C or ResNet-D', ('stem.0.weight', 'layer1.0.conv1.weight')),
    ('a segmentor over a ResNet with a deep stem, such as ResNet-C or ResNet-D',
                                            ('backbone.stem.0.weight', 'backbone.layer1.0.conv1.weight')),
    ('an HRNet',                            ('conv2.weight', 'layer1.0.conv1.weight', 'stage4.{tail}')),
    ('a segmentor over an HRNet',           ('backbone.layer1.0.conv1.weight', 'backbone.stage4.{tail}')),
    ('a ResNet with other blocks',          ('layer1.0.conv1.weight', 'layer4.0.conv1.weight')),
    ('a ResNet_vd of PaddleClas',           ('stem.2.conv.weight', 'blocks.0.conv0.conv.weight')),
    ('a ResNet_vc or ResNet_vd of PaddleSeg or PaddleClas', ('conv1_1._conv.weight', 'bb_0_0.conv0._conv.weight')),
    ('a segmentor of PaddleSeg over a ResNet_vd',
                                            ('backbone.conv1_1._conv.weight', 'backbone.bb_0_0.conv0._conv.weight')),
    ('a segmentor of mmsegmentation',       ('backbone.{tail}', 'decode_head.{tail}')),
)

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
    ('a ResNet classifier',                 ('layer1.0.conv1.weight', 'layer4.0.conv1.weight', 'fc.weight')),
    ('a ResNet backbone',                   ('layer1.0.conv1.weight', 'layer4.0.conv1.weight')),
    ('a segmentor of mmsegmentation',       ('backbone.{tail}', 'decode_head.{tail}')),
)

"""A module of Visual Transformers (arXiv 2006.03677): tokenizer, a relation between the tokens, norm, projector.

`tokenizers`, `token_relations` and `projector` have the three parts, each with the choices that the paper leaves open.
"""
from __future__ import annotations

import paddle
from paddle import nn

from paddleseg_ext.layers.projector import Projector
from paddleseg_ext.layers.token_relations import RELATIONS, TokenNorm
from paddleseg_ext.layers.tokenizers import FilterTokenizer, RecurrentTokenizer

__all__ = ['VisualTransformer', 'check_token_arguments']


class VisualTransformer(nn.Layer):
    """One module: tokens from the map, related to each other, normalised, and back to the map.

    Args:
        channels: C, of the map.
        tokens: L, at least 2.
        token_channels: T.
        groups: of what is done in groups (W_V, K, Q, W_Q); divides C, T and T/2.
        recurrent: whether the tokens come from the previous ones too.
        relation: one of RELATIONS.
        position_encoding: whether the tokens say where they come from.
        project: whether the tokens go back to the map; a classifier does not need it of its last module.
        drop_path_rate: of every branch beside a shortcut, in [0, 1).

    Shapes: map [N, C, H, W] and, if `recurrent`, tokens [N, T, L] to both, of the same shapes.
    """

    def __init__(self, channels: int, *, tokens: int, token_channels: int, groups: int, recurrent: bool, relation: str,
                 position_encoding: bool, project: bool = True, drop_path_rate: float = 0.):
        super().__init__()
        self.recurrent = recurrent
        tokenizer = RecurrentTokenizer if recurrent else FilterTokenizer
        self.tokenizer = tokenizer(channels, tokens, token_channels, groups=groups,
                                   position_encoding=position_encoding)
        self.relation = RELATIONS[relation](token_channels, groups=groups, drop_path_rate=drop_path_rate)
        self.norm = TokenNorm(token_channels)
        self.projector = Projector(channels, token_channels, groups=groups,
                                   drop_path_rate=drop_path_rate) if project else None

    def forward(self, x: paddle.Tensor, tokens: paddle.Tensor | None = None):
        tokens = self.tokenizer(x, tokens) if self.recurrent else self.tokenizer(x)
        tokens = self.norm(self.relation(tokens))
        return x if self.projector is None else self.projector(x, tokens), tokens


def check_token_arguments(channels: int, *, tokens: int, token_channels: int, groups: int, relation: str,
                          what: str = 'the channels of the map') -> None:
    """Raise a ValueError that names the first of these arguments of a module that is out of its range.

    `what` is how a user calls `channels`.
    """
    for name, value, least in (('tokens', tokens, 2), ('token_channels', token_channels, 2), ('groups', groups, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f'{name} must be a whole number of at least {least}, but is {value!r}.')
    if channels % groups or token_channels % (2 * groups):
        raise ValueError(f'groups must divide {what} ({channels}) and half of token_channels ({token_channels}), but '
                         f'is {groups}; choose a common divisor of both, 1 for no groups.')
    if relation not in RELATIONS:
        raise ValueError(f'relation must be one of {", ".join(RELATIONS)}, but is {relation!r}.')

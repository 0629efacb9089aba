"""1×1 convolutions in groups, over tokens and over maps: the matrices of Visual Transformers, which have no bias."""
from __future__ import annotations

from paddle import nn

__all__ = ['map_projection', 'token_projection']


def token_projection(in_channels: int, out_channels: int, *, groups: int = 1) -> nn.Conv1D:
    """A matrix for every token alike, [N, in_channels, L] to [N, out_channels, L]; `groups` divides both channels.

    It starts normal with a variance of 1 / (inputs of an output).
    """
    return nn.Conv1D(in_channels, out_channels, 1, groups=groups, weight_attr=_initial(in_channels // groups),
                     bias_attr=False)


def map_projection(in_channels: int, out_channels: int, *, groups: int = 1) -> nn.Conv2D:
    """The same for every position of a map, [N, in_channels, H, W] to [N, out_channels, H, W]."""
    return nn.Conv2D(in_channels, out_channels, 1, groups=groups, weight_attr=_initial(in_channels // groups),
                     bias_attr=False)


def _initial(inputs: int) -> nn.initializer.Initializer:
    return nn.initializer.Normal(std=inputs**-0.5)

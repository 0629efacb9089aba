"""Colours for any number of classes."""
from __future__ import annotations

__all__ = ['voc_palette']


def voc_palette(count: int) -> list[list[int]]:
    """Returns the first `count` colours [r, g, b] of Pascal VOC's colour map; 0 is black, and the first 256 differ.

    The bits of the id are dealt out to red, green and blue in turn, each channel filling from its highest bit.
    """
    palette = []
    for class_id in range(count):
        color = [0, 0, 0]
        for level in range(8):
            for channel in range(3):
                color[channel] |= (class_id >> (3 * level + channel) & 1) << (7 - level)
        palette.append(color)
    return palette

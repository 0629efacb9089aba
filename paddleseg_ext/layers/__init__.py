"""Layers in pure Paddle: attention, pooling, normalisation, drop path, sizes."""

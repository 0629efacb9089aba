"""Importing this module mends PaddleSeg (`compat`) and registers every component of ours with it."""
from paddleseg_ext import compat

compat.apply()

from paddleseg_ext.data import camvid, cocostuff10k, scenes  # noqa: E402 NOTE: after the mending, because they build on it.
from paddleseg_ext.models import rtformer  # noqa: E402 NOTE: as above.

__all__ = ['camvid', 'cocostuff10k', 'rtformer', 'scenes']

"""paddleseg_ext: transformer segmentors for PaddleSeg, from one YAML to a deployed program.

Importing this package is cheap and imports no Paddle, so that `paddleseg --help` answers at once. Importing
`paddleseg_ext.components` mends PaddleSeg and registers every model, data set and transform of ours.
"""

import zlib  # noqa: F401 NOTE: Paddle 2.6 brings a zlib of its own; loaded first, it breaks Python's and crashes.

__all__ = ['__version__']

__version__ = '0.1.0'

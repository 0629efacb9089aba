"""paddleseg_ext: transformer segmentors for PaddleSeg, from one YAML to a deployed program.

Importing this package is cheap and imports no Paddle, so that `paddleseg --help` answers at once. Importing
`paddleseg_ext.components` mends PaddleSeg and registers every model, data set and transform of ours.
"""

import zlib  # noqa: F401 NOTE: Paddle 2.6 brings a zlib of its own; loaded first, it breaks Python's and crashes.

__all__ = ['__version__', 'create_classifier']

__version__ = '0.3.0'


def __getattr__(name: str):
    if name == 'create_classifier':  # NOTE: late, because it brings Paddle with it
        from paddleseg_ext.components import create_classifier
        return create_classifier
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

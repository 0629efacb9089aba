"""Weights to start a training from: a local file or an address, where heads may be of another size."""
from __future__ import annotations

from collections.abc import Sequence

from paddle import nn

from paddleseg_ext.checkpoints.reading import read_arrays
from paddleseg_ext.checkpoints.weights import fill, weights_file
from paddleseg_ext.errors import UserError

__all__ = ['load_pretrained']

# What a classifier or a training-only head leaves over when its trunk is taken.
LEFT_OVER = ('fc.*', 'head.*', 'linear.*', 'classifier.*', 'seghead_extra.*')


def load_pretrained(model: nn.Layer, source: str, *, may_start_fresh: Sequence[str] = ()) -> None:
    """Fill `model` from a local `.pdparams` file, a checkpoint folder, or an `https://` address.

    Args:
        may_start_fresh: name patterns of the parts that keep their initial values where the source lacks them or
            has them in another shape (heads for another number of classes).

    Raises:
        UserError: the source cannot be read or fetched, or a weight outside those parts does not fit.
    """
    file = weights_file(_fetch(source) if '://' in source else source)
    fill(model, read_arrays(file), source=source, may_start_fresh=may_start_fresh, may_be_left=LEFT_OVER)


def _fetch(address: str) -> str:
    from paddleseg.utils.utils import download_pretrained_model
    try:
        return download_pretrained_model(address)
    except Exception as error:  # the downloader raises bare RuntimeError, OSError and AssertionError
        raise UserError(f'{address} could not be fetched ({error}); download it by other means and give the path of '
                        'the file.') from error

"""Writes weights of any known format as a file with our names, checked by loading it into the model they belong to."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import paddle
import yaml
from paddle import nn
from safetensors.numpy import save_file

from paddleseg_ext.checkpoints.pretrained import describe, load_arrays
from paddleseg_ext.checkpoints.reading import read_weights
from paddleseg_ext.checkpoints.sources import fetch
from paddleseg_ext.checkpoints.weights import own_weights
from paddleseg_ext.engine.identification import Identified, identify
from paddleseg_ext.errors import UserError
from paddleseg_ext.files import atomic_path

__all__ = ['Conversion', 'convert']

SUFFIXES = ('.pdparams', '.safetensors')


@dataclass
class Conversion:
    """What was converted: `text()` for people.

    Attributes:
        source: what was read, with its format.
        model: what it was loaded into.
        used, total: arrays that were loaded, and weights that were written.
        notes: what was adapted, dropped or started fresh, with the reasons.
        tree: YAML that uses the file, None where the configuration is known.
    """

    source: str
    model: str
    used: int
    total: int
    notes: list[str]
    destination: Path
    tree: dict | None

    def text(self) -> str:
        lines = [f'read     {self.source}', f'built    {self.model}',
                 f'wrote    {self.destination}: {self.total} weights, {self.used} of them from the source']
        lines += [f'note     {note}' for note in self.notes]
        if self.tree is not None:
            lines += ['', 'In a YAML:', '', yaml.safe_dump({'model': self.tree}, sort_keys=False).rstrip()]
        return '\n'.join(lines)


def convert(source: str, destination: Path | str, *, model: nn.Layer | None = None,
            allow: Sequence[str] = ()) -> Conversion:
    """Read `source`, load it whole into the model it belongs to, and write that model's weights, atomically.

    Args:
        source: as for `pretrained`: a file, folder, address or `timm/<name>`.
        destination: a `.pdparams` or `.safetensors` file.
        model: what to load into; without it the model is built from the names and shapes of the source.
        allow: patterns of weights that may be missing or left over.

    Raises:
        UserError: the source cannot be read, is of no known format or does not fit; or the destination is the source or
            has another suffix. Nothing has been written then.
    """
    destination = Path(destination)
    if destination.suffix not in SUFFIXES:
        raise UserError(f'{destination}: weights are written as {" or ".join(SUFFIXES)}; choose one of these endings.')
    file = fetch(source)
    if destination.exists() and destination.samefile(file):
        raise UserError(f'{destination} is the source itself; choose another name for the converted file.')
    weights = read_weights(file)
    found = identify(weights, source) if model is None else None
    model = found.model if found else model
    loaded = load_arrays(model, weights, source=source, allow=allow)
    total = _write(model, destination)
    tree = _tree(found, destination) if found else None
    return Conversion(source + describe(weights), found.title if found else type(model).__name__, loaded.used, total,
                      loaded.notes, destination, tree)


def _tree(found: Identified, destination: Path) -> dict:
    found.takes_weights['pretrained'] = str(destination)
    return found.tree


def _write(model: nn.Layer, destination: Path) -> int:
    state = own_weights(model.state_dict())
    with atomic_path(destination) as temporary:
        if destination.suffix == '.pdparams':
            paddle.save(state, str(temporary))
        else:
            save_file({name: value.numpy() for name, value in state.items()}, temporary, metadata={'format': 'pd'})
    return len(state)

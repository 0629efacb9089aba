"""What the results of each image are called, so that none overwrites another's, now or from an earlier run."""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from paddleseg_ext.data.image_io import ImageItem
from paddleseg_ext.data.render import RESULT_FOLDERS
from paddleseg_ext.errors import UserError
from paddleseg_ext.files import atomic_write_text

__all__ = ['LEDGER', 'claim_outputs', 'output_names']

LEDGER = 'predictions.json'
"""File in the output folder that says which image each result is from."""


def output_names(items: Sequence[ImageItem]) -> list[Path]:
    """Names below the output folder, all ending in .png and all different.

    ``sub/a.jpg`` gives ``sub/a.png``. Images that would share a name keep their full one: ``a.jpg.png``, ``a.png.png``.

    Raises:
        UserError: two images that even then share a name.
    """
    names = [item.relative.with_suffix('.png') for item in items]
    full = [item.relative.with_name(item.relative.name + '.png') for item in items]
    while True:
        counts = Counter(_key(name) for name in names)
        widen = [index for index, name in enumerate(names) if counts[_key(name)] > 1 and name != full[index]]
        if not widen:
            break
        for index in widen:
            names[index] = full[index]
    for name in (name for name, count in Counter(names).items() if count > 1):
        paths = [str(item.path) for other, item in zip(names, items) if other == name]
        raise UserError(f'{" and ".join(paths)} would both be written to {name}; predict them in separate runs.')
    return names


def claim_outputs(items: Sequence[ImageItem], save_dir: str | Path) -> list[Path]:
    """:func:`output_names`, noted in the folder's ledger; results of the same image from an earlier run are replaced.

    Raises:
        UserError: the folder holds results under these names that are from other images.
    """
    save_dir = Path(save_dir)
    names = output_names(items)
    ledger = _read(save_dir / LEDGER)
    for name, item in zip(names, items):
        source = str(item.path.resolve())
        before = ledger.get(name.as_posix())
        if before not in (None, source):
            raise UserError(f'{save_dir}: {name} is the result of {before}, and would be overwritten by that of '
                            f'{source}. Choose another --save_dir, or remove that folder.')
        if before is None and any((save_dir / folder / name).exists() for folder in RESULT_FOLDERS):
            raise UserError(f'{save_dir}: {name} is there already, and {LEDGER} does not say from which image. '
                            'Choose another --save_dir, or remove that folder.')
        ledger[name.as_posix()] = source
    text = json.dumps({'outputs': ledger}, indent=1, ensure_ascii=False, sort_keys=True)
    atomic_write_text(save_dir / LEDGER, text + '\n')  # before the first result: what is claimed may be rewritten
    return names


def _key(name: Path) -> str:
    return name.as_posix().casefold()  # some file systems take A.png and a.png for one


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding='utf-8'))['outputs'])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: not a ledger of predictions ({error}); remove it or choose another '
                        '--save_dir.') from error

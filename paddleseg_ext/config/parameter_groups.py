"""Whether every entry of `optimizer.custom_cfg` takes some of the model's weights."""
from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from paddleseg_ext.errors import UserError

__all__ = ['require_groups_match']

MOST_PIECES = 12


def require_groups_match(groups: Sequence[dict], parameters: Iterable[tuple[str, bool]]) -> None:
    """Refuse entries whose `name` would change nothing.

    A weight belongs to the first entry whose `name` is a piece of its own name, so that an entry can also be left empty
    by those before it.

    Args:
        groups: the entries of `optimizer.custom_cfg`, each with a `name`.
        parameters: name of each weight of the model, and whether it is trained.

    Raises:
        UserError: an entry that takes no trainable weight; names the entry and near pieces of names.
    """
    parameters = list(parameters)
    free = [name for name, trained in parameters if trained]
    taken_by: dict[str, str] = {}
    for index, group in enumerate(groups):
        piece = str(group['name'])
        taken = [name for name in free if piece in name]
        if not taken:
            raise UserError(f'optimizer.custom_cfg.{index}: no trainable weight is left for name {piece!r}: '
                            f'{_reason(piece, parameters, taken_by)}')
        free = [name for name in free if piece not in name]
        taken_by.update(dict.fromkeys(taken, piece))


def _reason(piece: str, parameters: list[tuple[str, bool]], taken_by: dict[str, str]) -> str:
    matching = [(name, trained) for name, trained in parameters if piece in name]
    earlier = list(dict.fromkeys(taken_by[name] for name, _ in matching if name in taken_by))
    if earlier:
        owners = ', '.join(map(repr, earlier))
        return (f'all {len(matching)} whose names have it belong to the earlier entries {owners}; put this entry '
                'before them, or remove it.')
    if matching:
        return f'all {len(matching)} whose names have it are frozen; remove the entry.'
    return f'it is in no name of the model; {_near_pieces(piece, [name for name, trained in parameters if trained])}'


def _near_pieces(piece: str, names: list[str]) -> str:
    """The pieces between the dots of the names that come nearest, or some of all where none is near."""
    pieces = list(dict.fromkeys(part for name in names for part in name.split('.') if not part.isdigit()))
    near = difflib.get_close_matches(piece, pieces, n=3, cutoff=0.6)
    if near:
        return f'did you mean {" or ".join(map(repr, near))}?'
    more = ', …' if len(pieces) > MOST_PIECES else ''
    return f'names are made of {", ".join(pieces[:MOST_PIECES])}{more}'

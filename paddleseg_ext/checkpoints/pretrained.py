"""Weights to start from, wherever they come from and whatever their names are: see `load_pretrained`."""
from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext.checkpoints.formats import recognise, resembles
from paddleseg_ext.checkpoints.reading import Weights, read_weights
from paddleseg_ext.checkpoints.rules import Format, Rename, Translation, matches, translate
from paddleseg_ext.checkpoints.sources import fetch
from paddleseg_ext.checkpoints.weights import fill, matching, some
from paddleseg_ext.errors import UserError

__all__ = ['BACKBONE', 'Loaded', 'describe', 'load_arrays', 'load_pretrained', 'translation_of']

BACKBONE = 'backbone.'
IMAGE_CHANNELS = 3
OUTSIDE = 'it is outside of the backbone'
REMEDY = ('Give the weights that belong to this model, or name the parts that may differ in pretrained_allow, such as '
          '"head.*".')

State = Mapping[str, paddle.Tensor]

log = logging.getLogger('paddleseg_ext')


@dataclass
class Loaded:
    """What became of a checkpoint that was loaded.

    Attributes:
        used: how many arrays went into the model.
        notes: lines for people about what was adapted, dropped or not there, with the reasons.
    """

    used: int
    notes: list[str]


def load_pretrained(model: nn.Layer, source: str, *, allow: Sequence[str] = (),
                    may_start_fresh: Sequence[str] = ()) -> None:
    """Fill `model` from weights of ours or of a known format, and log what they were, and what was not used and why.

    Args:
        source: a file, a checkpoint or run folder, an `https://` address, or `timm/<name>` for the Hugging Face hub.
        allow: patterns of the user (`pretrained_allow`): names of the model that may be missing or of another shape,
            and names of the source that may be left over.
        may_start_fresh: such patterns of the model itself, which need not fit any name.

    A backbone takes its part of a classifier or segmentor. The first convolution is adapted where the model reads other
    than three channels.

    Raises:
        UserError: the source cannot be read or fetched, something does not fit, or a pattern of `allow` fits no name.
            Nothing has been loaded then.
    """
    load_arrays(model, read_weights(fetch(source)), source=source, allow=allow, may_start_fresh=may_start_fresh)


def load_arrays(model: nn.Layer, weights: Weights, *, source: str, allow: Sequence[str] = (),
                may_start_fresh: Sequence[str] = ()) -> Loaded:
    """As `load_pretrained`, from what `read_weights` gave."""
    state, title = model.state_dict(), f'{source}{describe(weights)}'
    form = recognise(weights.arrays, weights.layout)
    translation = translation_of(weights)
    _require_patterns(allow, [*state, *weights.arrays, *translation.arrays], source)
    replaced = _replace(translation, form, state) if form else {}
    if form is not None:
        _choose_part(translation, form, state, [*allow, *replaced], title=title, model=type(model).__name__)
        _drop_spare_parts(translation, form, state)
    if (form.layout if form else weights.layout) == 'torch':
        _turn_linear_weights(translation.arrays, model)
    notes = _adapt_first_convolutions(translation.arrays, model, state)
    absent = {**replaced, **_absent(form, translation, state)}
    fill(model, translation.arrays, source=title, unmatched=translation.unmatched, may_be_left=allow,
         may_start_fresh=[*may_start_fresh, *allow, *absent], remedy=f'{form.remedy if form else ""} {REMEDY}'.strip())
    for reason, names in translation.dropped.items():
        notes.append(f'{len(names)} not used, because {reason}: {some(names)}')
    notes += [f'{count} fresh, because {reason}' for reason, count in sorted(Counter(absent.values()).items())]
    for note in notes:
        log.info('%s: %s', type(model).__name__, note)
    return Loaded(sum(name in state for name in translation.arrays), notes)


def describe(weights: Weights) -> str:
    """What weights are, in brackets, as far as their names tell; with the key that they stood under in their file."""
    form = recognise(weights.arrays, weights.layout)
    looks = form.name if form else resembles(weights.arrays)
    notes = [f'its {weights.part!r}'] if weights.part else []
    if looks:
        notes.append(looks if form else f'looks like {looks}, which is none of the formats read here')
    return f' ({", ".join(notes)})' if notes else ''


def translation_of(weights: Weights) -> Translation:
    """Weights under our names of a whole model; under their own where no format of ours is recognised."""
    form = recognise(weights.arrays, weights.layout)
    own = Format('', weights.layout or 'paddle', (), (Rename('{tail}', '{tail}'),))
    return translate(weights.arrays, form or own)


def _require_patterns(allow: Sequence[str], names: Sequence[str], source: str) -> None:
    if isinstance(allow, str):
        raise UserError(f'pretrained_allow must be a list of patterns, but is {allow!r}; write [{allow!r}].')
    idle = [pattern for pattern in allow if not matching(names, [pattern])]
    if idle:
        raise UserError(f'pretrained_allow: {", ".join(map(repr, idle))} fits no name, neither of the model nor of '
                        f'{source}; remove it or correct it.')


def _replace(translation: Translation, form: Format, state: State) -> dict[str, str]:
    """Drop what the model has another part in place of; its names that start fresh therefore, each with the reason."""
    fresh = {}
    for each in form.replaced:
        if any(_fits(name, [each.part]) for name in state):
            for name in [name for name in translation.arrays if _fits(name, each.places)]:
                translation.discard(name, each.unused)
            fresh.update({name: each.fresh for name in state if _fits(name, (each.part, *each.places))})
    return fresh


def _fits(name: str, templates: Sequence[str]) -> bool:
    """Whether a name of a whole model, or of a backbone alone, fits one of these templates of names of whole models."""
    return any(matches(template, prefix + name) is not None for template in templates for prefix in ('', BACKBONE))


def _choose_part(translation: Translation, form: Format, state: State, allow: Sequence[str], *, title: str,
                 model: str) -> None:
    """Take the backbone alone where `state` is one's; refuse a backbone alone where `state` has heads beside it."""
    ours = [name for name in translation.arrays if name.startswith(BACKBONE)]
    others = [name for name in translation.arrays if not name.startswith(BACKBONE)]
    heads = [name for name in state if not name.startswith(BACKBONE)]
    if not ours:
        return
    if len(heads) < len(state):
        if not any(name in state for name in others) and len(matching(heads, allow)) < len(heads):
            raise UserError(f'{title} fits the backbone of {model} but none of its heads; give it as `pretrained` of '
                            'the backbone, inside of `backbone:`, not of the whole model, or name the heads in '
                            'pretrained_allow.')
        return
    for name in others:
        translation.discard(name, OUTSIDE)
    for name in [name for name in translation.unmatched if name.startswith(form.beside)]:
        translation.unmatched.remove(name)
        translation.drop(name, OUTSIDE)
    for table in (translation.arrays, translation.origins):
        for name in ours:
            table[name[len(BACKBONE):]] = table.pop(name)


def _drop_spare_parts(translation: Translation, form: Format, state: State) -> None:
    for prefix in form.spare:
        if not any(name.startswith(prefix) for name in state):
            for name in [name for name in translation.arrays if name.startswith(prefix)]:
                translation.discard(name, f'the model has no {prefix.rstrip(".")}')


def _turn_linear_weights(arrays: dict[str, np.ndarray], model: nn.Layer) -> None:
    """PyTorch keeps the weight of a linear layer as [out, in], Paddle as [in, out]."""
    for prefix, layer in model.named_sublayers(include_self=True):
        name = f'{prefix}.weight' if prefix else 'weight'
        if isinstance(layer, nn.Linear) and np.ndim(arrays.get(name)) == 2:
            arrays[name] = arrays[name].T


def _adapt_first_convolutions(arrays: dict[str, np.ndarray], model: nn.Layer, state: State) -> list[str]:
    """Repeat and rescale weights for three channels where the model reads another number; says what it did.

    The scale keeps the response to an image whose channels are equal.
    """
    notes = []
    for prefix, layer in model.named_sublayers(include_self=True):
        if not hasattr(layer, 'first_convolution'):
            continue
        name = f'{prefix}.{layer.first_convolution}' if prefix else layer.first_convolution
        array, wanted = arrays.get(name), state[name].shape[1]
        if np.ndim(array) == 4 and array.shape[1] == IMAGE_CHANNELS != wanted:
            arrays[name] = array[:, np.arange(wanted) % IMAGE_CHANNELS] * np.float32(IMAGE_CHANNELS / wanted)
            notes.append(f'{name} adapted from {IMAGE_CHANNELS} to {wanted} input channels (repeated and rescaled)')
    return notes


def _absent(form: Format | None, translation: Translation, state: State) -> dict[str, str]:
    """The names of the model that checkpoints of this format never have, each with the reason."""
    absent = {}
    for template, reason in form.absent if form else ():
        names = [name for name in state if _fits(name, [template])]
        if not any(name in translation.arrays for name in names):
            absent.update({name: reason for name in names})
    return absent

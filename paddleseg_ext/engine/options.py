"""How a model is tested: the `test_config` of a YAML and the test flags of the command, checked. Imports no Paddle."""
from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from paddleseg_ext.errors import UserError

__all__ = ['TestOptions']

PRECISIONS = ('fp32', 'fp16', 'bf16')


@dataclass(frozen=True)
class TestOptions:
    """How to test; names and meanings as PaddleSeg's ``evaluate``.

    Args:
        aug_eval: average over `scales` and flips; without it those are ignored, as in PaddleSeg.
        scales: factors for the input size, each above 0.
        flip_horizontal: with `aug_eval`, also predict the mirrored image.
        flip_vertical: with `aug_eval`, also predict the image upside down.
        is_slide: predict window by window; logits of overlapping windows are averaged.
        crop_size: (width, height) of a window in pixels.
        stride: (width, height) of the step between windows, at most `crop_size`.
        precision: 'fp32', or 'fp16' / 'bf16' mixed precision on a GPU.
        window_batch: windows put through the model at once; more is faster on a GPU and needs more memory.

    Raises:
        UserError: a value of the wrong kind, or windows without size or stride.
    """

    __test__ = False  # NOTE: pytest would collect the class for its name, because test modules import it.

    aug_eval: bool = False
    scales: tuple[float, ...] = (1.0,)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    is_slide: bool = False
    crop_size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    precision: str = 'fp32'
    window_batch: int = 1

    def __post_init__(self) -> None:
        for name in ('aug_eval', 'flip_horizontal', 'flip_vertical', 'is_slide'):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f'{name} is {getattr(self, name)!r}; it must be true or false.')
        object.__setattr__(self, 'scales', _scales(self.scales))
        for name in ('crop_size', 'stride'):
            object.__setattr__(self, name, _size(name, getattr(self, name)))
        if self.precision not in PRECISIONS:
            raise UserError(f'precision is {self.precision!r}; it must be one of {", ".join(PRECISIONS)}.')
        if not _is_integer(self.window_batch) or self.window_batch < 1:
            raise UserError(f'window_batch is {self.window_batch!r}; it must be an integer of at least 1.')
        if self.is_slide:
            self._check_windows()

    def _check_windows(self) -> None:
        for name in ('crop_size', 'stride'):
            if getattr(self, name) is None:
                raise UserError(f'is_slide needs {name}, which is not given: sliding-window inference takes the size '
                                'of a window and the step between windows, both as width and height in pixels. Give '
                                'for example --crop_size 512 512 --stride 384 384, or both keys in test_config.')
        if any(step > side for step, side in zip(self.stride, self.crop_size)):
            raise UserError(f'stride {list(self.stride)} is larger than crop_size {list(self.crop_size)}, which leaves '
                            'pixels without prediction; use a stride of at most crop_size in width and height.')

    @classmethod
    def from_config(cls, test_config: Mapping[str, Any] | None, **overrides: Any) -> TestOptions:
        """Options from the `test_config` section of a YAML.

        Args:
            test_config: the section; may be absent or empty. Its `auc_roc` is not about how, and is left out.
            overrides: options that win over the section; None means "not given".

        Raises:
            UserError: unknown keys, or values that break the rules above.
        """
        values = {key: value for key, value in (test_config or {}).items() if key != 'auc_roc'}
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UserError(f'test_config has unknown keys {", ".join(unknown)}; it takes {", ".join(sorted(known))}.')
        unknown = sorted(set(overrides) - known)
        if unknown:
            raise TypeError(f'TestOptions has no {", ".join(unknown)}')
        values.update({name: value for name, value in overrides.items() if value is not None})
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """The options as plain lists and numbers, for reports and `deploy.yaml`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _scales(value: Any) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    numeric = all(isinstance(scale, numbers.Real) and not isinstance(scale, bool) and scale > 0 for scale in values)
    if not values or not numeric:
        raise UserError(f'scales is {value!r}; it must be one factor or a list of factors above 0, '
                        'such as 0.75 1.0 1.25.')
    return tuple(float(scale) for scale in values)


def _size(name: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    if not pair or not all(_is_integer(side) and side > 0 for side in value):
        raise UserError(f'{name} is {value!r}; it must be two integers above 0: width and height in pixels.')
    return int(value[0]), int(value[1])

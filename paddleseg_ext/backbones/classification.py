"""Image classifiers over our backbones, in which released ImageNet weights can be verified whole."""
from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from paddle import nn

__all__ = ['classifiers', 'create_classifier', 'register_classifier']

_CLASSIFIERS: dict[str, Callable[..., nn.Layer]] = {}


def register_classifier(name: str, make: Callable[..., nn.Layer]) -> None:
    """Let `create_classifier(name, …)` call `make(num_classes=…, in_channels=…, …)`."""
    assert name not in _CLASSIFIERS, name
    _CLASSIFIERS[name] = make


def classifiers() -> list[str]:
    """The names that `create_classifier` knows."""
    return sorted(_CLASSIFIERS)


def create_classifier(name: str, *, num_classes: int = 1000, in_channels: int = 3, pretrained: str | None = None,
                      pretrained_allow: Sequence[str] = (), **arguments) -> nn.Layer:
    """An image classifier over one of our backbones.

    Args:
        name: registered name of the backbone, such as 'Twins_SVT_S'.
        num_classes: of the logits.
        in_channels: of the images.
        pretrained: path, address or `timm/` name of the classifier's weights, in any of the released formats.
        pretrained_allow: patterns of weights that may be missing or left over, such as 'head.*'.
        arguments: of the backbone, such as `lsa_padding`; an unknown one is a TypeError.

    Returns:
        a layer from images [N, in_channels, H, W] to logits [N, num_classes].

    Raises:
        ValueError: an unknown name, or fewer than one class.
    """
    if name not in _CLASSIFIERS:
        near = difflib.get_close_matches(name, _CLASSIFIERS, n=1)
        hint = f'did you mean {near[0]}?' if near else f'there are {", ".join(classifiers())}.'
        raise ValueError(f'{name} is no classifier of paddleseg_ext; {hint}')
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f'num_classes must be a whole number of at least 1, but is {num_classes!r}.')
    return _CLASSIFIERS[name](num_classes=num_classes, in_channels=in_channels, pretrained=pretrained,
                              pretrained_allow=pretrained_allow, **arguments)

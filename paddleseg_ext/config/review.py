"""What every check works on: the merged tree, the components found in it, and how findings are written down."""
from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Callable

from paddleseg_ext.config.known_keys import COMPONENT_SECTIONS, LOSS_SECTIONS, NESTED_KINDS, optimizer_type
from paddleseg_ext.config.loading import Config
from paddleseg_ext.config.signatures import Signature, find_component, schedules, signature_of
from paddleseg_ext.config.yaml_tree import Node

__all__ = ['Finding', 'Part', 'Review', 'suggestion']

Finding = tuple  # (key path, message)


@dataclass(frozen=True)
class Part:
    """One mapping that becomes a component.

    Attributes:
        path: its key path.
        node: the mapping.
        kind: the registry it should come from, 'schedule' for lr_scheduler, None where any will do.
        name: what its `type` says, after PaddleSeg's renamings; anything may stand there.
        component: the class or function of that name, None where there is none of that kind.
        found_kind: the registry where the name was found.
    """

    path: tuple
    node: Node
    kind: str | None
    name: Any
    component: Callable | None
    found_kind: str | None

    @property
    def signature(self) -> Signature | None:
        return None if self.component is None else signature_of(self.component)

    def value(self, argument: str, default: Any = None) -> Any:
        """The plain value of an argument that the YAML gives."""
        return self.node.value[argument].plain() if argument in self.node.value else default

    def effective(self, argument: str) -> Any:
        """The value the component will get: the YAML's, or the signature's default; None where there is neither."""
        if argument in self.node.value or self.signature is None:
            return self.value(argument)
        declared = self.signature.arguments.get(argument)
        return None if declared is None or declared.required else declared.default


class Review:
    """A configuration under review."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.root = config.root
        self.tree = config.tree

    def section(self, name: str) -> dict:
        """A top-level section as a plain mapping, empty where it is absent or not a mapping."""
        value = self.tree.get(name)
        return value if isinstance(value, dict) else {}

    @cached_property
    def parts(self) -> list[Part]:
        """Every component of the configuration, outer before inner."""
        return [part for path, kind in _top_parts(self.root) for part in _parts(self.root, path, kind)]

    def part(self, *path: Any) -> Part | None:
        """The component at a key path."""
        return next((part for part in self.parts if part.path == path), None)

    @property
    def datasets(self) -> list[Part]:
        """The data sets that are there and known."""
        return [part for part in (self.part('train_dataset'), self.part('val_dataset')) if part and part.component]

    @property
    def losses(self) -> list[Part]:
        """The losses, those inside MixedLoss included."""
        return [part for part in self.parts if part.path[0] in LOSS_SECTIONS]

    @cached_property
    def num_classes(self) -> int | None:
        """The number of classes by the model, else by the first data set that tells it."""
        candidates = [self.section('model').get('num_classes')]
        candidates += [dataset_fact(part, 'num_classes') for part in self.datasets]
        return next((value for value in candidates if isinstance(value, int)), None)

    @cached_property
    def channels(self) -> int:
        """Channels of the images, 3 where nothing tells."""
        model = self.section('model')
        backbone = model.get('backbone')
        own = (backbone if isinstance(backbone, dict) else model).get('in_channels')
        candidates = [own, *(dataset_fact(part, 'img_channels') for part in self.datasets)]
        return next((value for value in candidates if isinstance(value, int)), 3)


def dataset_fact(part: Part, name: str) -> Any:
    """num_classes, img_channels or ignore_index of a data set: what its class says, or for `Dataset` what the YAML says
    (None where it leaves it to the default)."""
    return part.value(name) if part.name == 'Dataset' else getattr(part.component, name.upper(), None)


def suggestion(name: str, known: Iterable[str]) -> str:
    """', did you mean X?' for the nearest known name, or '; known: …' where none is near."""
    known = sorted(set(known))
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    if near:
        return f', did you mean {near[0]}?'
    return f'; known: {", ".join(known)}' if known else ''


def _top_parts(root: Node) -> Iterator[tuple[tuple, str | None]]:
    for name, kind in COMPONENT_SECTIONS.items():
        yield (name,), kind
    yield ('lr_scheduler',), 'schedule'
    for path, kind in ((('loss', 'types'), 'loss'), (('distill_loss', 'types'), 'loss'),
                       (('export', 'transforms'), 'transform')):
        node = root.at(path)
        for index in range(len(node.value) if node is not None and isinstance(node.value, list) else 0):
            yield (*path, index), kind


def _parts(root: Node, path: tuple, kind: str | None) -> Iterator[Part]:
    node = root.at(path)
    if node is None or not isinstance(node.value, dict):
        return
    yield _part(path, node, kind)
    for key, child in node.value.items():
        inner = NESTED_KINDS.get(key)
        if isinstance(child.value, dict) and (inner or 'type' in child.value):
            yield from _parts(root, (*path, key), inner)
        for index, item in enumerate(child.value if isinstance(child.value, list) else ()):
            if isinstance(item.value, dict) and (inner or 'type' in item.value):
                yield from _parts(root, (*path, key, index), inner)


def _part(path: tuple, node: Node, kind: str | None) -> Part:
    plain = {key: child.value for key, child in node.value.items()}
    name = optimizer_type(plain) if path == ('optimizer',) else plain.get('type')
    if kind == 'schedule':
        known = schedules()
        component = known.get(name) if isinstance(name, str) else None
        return Part(path, node, kind, name, component, kind if component else None)
    found = find_component(name) if isinstance(name, str) else None
    found_kind, component = found or (None, None)
    return Part(path, node, kind, name, component if kind in (None, found_kind) else None, found_kind)

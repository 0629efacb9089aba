"""What is registered, what it costs, and which shipped configurations use it: the table of `paddleseg models`."""
from __future__ import annotations

import contextlib
import difflib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from paddleseg_ext.errors import UserError

__all__ = ['DEFAULT_CLASSES', 'RENDERERS', 'Row', 'list_models']

KINDS = ('model', 'backbone')
OURS = 'paddleseg_ext'
# Classes of a model that no shipped configuration builds: those of Cityscapes.
DEFAULT_CLASSES = 19


@dataclass(frozen=True)
class Row:
    """A registered model or backbone as some shipped configurations build it, or with its default arguments.

    Attributes:
        name: as in YAML.
        kind: 'model' or 'backbone'.
        origin: 'paddleseg_ext' or 'PaddleSeg'.
        num_classes: of a model; None for a backbone.
        parameters: trainable ones; None where it was not counted, or cannot be built without being told more.
        macs: multiply-accumulates of one image in evaluation; None likewise, and where it does not run at that size.
        input_size: height and width in pixels for `macs`.
        configs: shipped configurations that build it so, or that have the backbone in their model.
    """

    name: str
    kind: str
    origin: str
    num_classes: int | None
    parameters: int | None
    macs: int | None
    input_size: tuple[int, int]
    configs: tuple[str, ...]


def list_models(names: Sequence[str] = (), *, everything: bool = False,
                input_size: tuple[int, int] = (512, 1024)) -> list[Row]:
    """Rows of the named models and backbones, by default of all of ours. A model has a row for each size it comes in.

    Args:
        names: registered names; empty means ours.
        everything: PaddleSeg's as well, where `names` is empty; these are listed, but built and counted only when they
            are named, because building all of them takes minutes.
        input_size: height and width in pixels for the multiply-accumulates, at least 1.

    Raises:
        UserError: an unknown name, or a size below 1.
    """
    import paddleseg_ext.components  # noqa: F401  NOTE: imported for its effect, it registers our components
    from paddleseg_ext.registry import components

    if min(input_size) < 1:
        raise UserError(f'--input_size {" ".join(map(str, input_size))}: height and width must be at least 1.')
    known = {name: (kind, component) for kind in KINDS for name, component in components(kind).items()}
    chosen = list(names) or sorted(name for name, (_, component) in known.items()
                                   if everything or _origin(component) == OURS)
    for name in chosen:
        if name not in known:
            raise UserError(f'{name} is no registered model or backbone{_hint(name, known)}')
    users = _users()
    rows = []
    for name in chosen:
        kind, component = known[name]
        if not names and _origin(component) != OURS:
            uncounted = (None, None, None, tuple(input_size))
            rows.append(Row(name, kind, _origin(component), *uncounted, tuple(users.get(name, []))))
        elif kind == 'model':
            rows += _model_rows(name, component, users.get(name, []), input_size)
        else:
            rows.append(_backbone_row(name, component, users.get(name, []), input_size))
    return rows


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f'; did you mean {", ".join(near)}?' if near else '; `paddleseg models --all` lists every name.'


def _origin(component: Callable) -> str:
    return OURS if component.__module__.split('.')[0] == OURS else 'PaddleSeg'


def _users() -> dict[str, list[str]]:
    """Names of the shipped configurations by each model and backbone in them; bases, marked by `_`, are left out."""
    from paddleseg_ext.config import configs_folder, load_config, shipped_configs
    users: dict[str, list[str]] = {}
    for stem, path in sorted(shipped_configs().items()):
        if any(part.startswith('_') for part in path.relative_to(configs_folder()).parts):
            continue
        for component in _types(load_config(path).tree.get('model') or {}):
            users.setdefault(component, []).append(stem)
    return users


def _types(section: dict) -> list[str]:
    """`type` of a section and of the sections inside it."""
    nested = [name for value in section.values() if isinstance(value, dict) for name in _types(value)]
    return [section['type'], *nested] if 'type' in section else nested


def _model_rows(name: str, component: Callable, configs: list[str], input_size: tuple[int, int]) -> list[Row]:
    """A row for each cost that the configurations give the model; one with default arguments where there are none."""
    built = [(_build_configured(config), (config,)) for config in configs]
    if not built:
        built = [((_build_default(component), DEFAULT_CLASSES), ())]
    merged: dict[tuple, Row] = {}
    for (model, num_classes), used_by in built:
        row = Row(name, 'model', _origin(component), num_classes, *_cost(model, input_size), tuple(input_size), used_by)
        cost = (row.num_classes, row.parameters, row.macs)
        known = merged.get(cost)
        merged[cost] = Row(**{**vars(row), 'configs': known.configs + used_by}) if known else row
    return sorted(merged.values(), key=lambda row: (row.parameters or 0, row.configs))


def _backbone_row(name: str, component: Callable, configs: list[str], input_size: tuple[int, int]) -> Row:
    cost = _cost(_build_default(component), input_size)
    return Row(name, 'backbone', _origin(component), None, *cost, tuple(input_size), tuple(configs))


def _build_configured(name: str):
    """The model of a shipped configuration, without its pretrained weights, and its number of classes."""
    from paddleseg_ext.config import drop_pretrained, load_config, make_builder
    from paddleseg_ext.engine.bare_models import bare_models
    builder = make_builder(load_config(name))
    drop_pretrained(builder.config.dic['model'])
    with _silence(), bare_models():
        model = builder.model
    return model, builder.config.dic['model'].get('num_classes')


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without PaddleSeg's warnings about keys that it takes from the data set."""
    from paddleseg.utils import logger
    level, logger.log_level = logger.log_level, 0
    try:
        yield
    finally:
        logger.log_level = level


def _build_default(component: Callable):
    """The component with its default arguments, and DEFAULT_CLASSES classes where it asks; None where it asks more."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = {name for name, parameter in inspect.signature(component).parameters.items()
                if parameter.default is parameter.empty and parameter.kind not in variable}
    if required - {'num_classes'}:
        return None
    from paddleseg_ext.engine.bare_models import bare_models
    try:
        with bare_models():
            return component(**{name: DEFAULT_CLASSES for name in required})
    except Exception:  # NOTE: of every kind, because a component of PaddleSeg may need arguments it gives defaults to.
        return None


def _cost(model, input_size: tuple[int, int]) -> tuple[int | None, int | None]:
    """Trainable parameters, and multiply-accumulates of one image."""
    from paddleseg_ext.engine.operation_count import count_macs, count_parameters
    if model is None:
        return None, None
    channels = next((weight.shape[1] for weight in model.parameters() if len(weight.shape) == 4), 3)
    try:
        macs = count_macs(model, (1, channels, *input_size))
    except Exception:  # NOTE: of every kind, because some models of PaddleSeg run at certain sizes only.
        macs = None
    return count_parameters(model), macs


def _millions(count: int | None) -> str:
    return '–' if count is None else f'{count / 1e6:.2f}'


def _billions(count: int | None) -> str:
    return '–' if count is None else f'{count / 1e9:.{1 if count >= 1e9 else 3}f}'


def _columns(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells; the last cell holds the configurations, one a line."""
    height, width = rows[0].input_size if rows else (0, 0)
    header = ['name', 'kind', 'of', 'classes', 'parameters (M)', f'GMACs at {height}×{width}', 'configurations']
    cells = [[row.name, row.kind, row.origin, str(row.num_classes or ''), _millions(row.parameters),
              _billions(row.macs), '\n'.join(row.configs)] for row in rows]
    return header, cells


def _as_table(rows: Sequence[Row]) -> str:
    """Aligned columns, a line for every configuration."""
    header, cells = _columns(rows)
    lines = [header]
    for cell in cells:
        first, *others = cell[-1].split('\n')
        lines.append([*cell[:-1], first])
        lines += [[''] * (len(header) - 1) + [other] for other in others]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    numbers = range(3, len(header) - 1)
    return '\n'.join('  '.join(text.rjust(width) if column in numbers else text.ljust(width)
                               for column, (text, width) in enumerate(zip(line, widths))).rstrip() for line in lines)


def _as_markdown(rows: Sequence[Row]) -> str:
    header, cells = _columns(rows)
    lines = [header, ['---', '---', '---', '---:', '---:', '---:', '---']]
    for cell in cells:
        lines.append([f'`{cell[0]}`', *cell[1:-1], '<br>'.join(f'`{name}`' for name in cell[-1].split('\n') if name)])
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _as_json(rows: Sequence[Row]) -> str:
    return json.dumps([asdict(row) for row in rows], indent=1)


RENDERERS: dict[str, Callable[[Sequence[Row]], str]] = {'table': _as_table, 'markdown': _as_markdown, 'json': _as_json}

"""From a merged tree to PaddleSeg's builder, without reading the file a second time."""
from __future__ import annotations

import re
from typing import TYPE_CHECKING

from paddleseg_ext.config.known_keys import EVALUATED
from paddleseg_ext.config.loading import Config
from paddleseg_ext.config.yaml_tree import dotted
from paddleseg_ext.errors import UserError

if TYPE_CHECKING:
    from paddleseg.cvlibs import SegBuilder

__all__ = ['drop_pretrained', 'make_builder', 'require_no_code']

# PaddleSeg's log levels: 1 leaves warnings and errors.
QUIET_LEVEL = 1


def make_builder(config: Config) -> SegBuilder:
    """PaddleSeg's builder over a configuration: `.model`, `.train_dataset`, `.loss`, `.optimizer` … on first use.

    The builder works on its own copy of the tree (it writes into it), so `config` can be used again. PaddleSeg's own
    rules (required sections, equal num_classes and ignore_index) run here. Its habit of printing every section is off.

    Raises:
        UserError: an option that could not be applied, a broken rule, or (on first use of an attribute) a component
            that cannot be built.
    """
    import paddleseg_ext.components  # noqa: F401  NOTE: imported for its effect, it registers our components
    from paddleseg_ext.config.tree_builder import TreeBuilder, TreeConfig
    config.require_options()
    require_no_code(config)
    _quieten_paddleseg()
    tree = config.tree
    _whole_number_decay_to_float(tree)
    _no_warmup(tree)
    try:
        return TreeBuilder(TreeConfig(tree))
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{config.path}: {error}\nRun `paddleseg config check --config {config.path}` for all of its '
                        'problems with their lines.') from error


def drop_pretrained(section: dict) -> None:
    """Remove `pretrained` from a section and the sections inside it, where other weights will be loaded anyway."""
    section.pop('pretrained', None)
    section.pop('pretrained_allow', None)
    for part in section.values():
        if isinstance(part, dict):
            drop_pretrained(part)


def require_no_code(config: Config) -> None:
    """Refuse values that PaddleSeg would evaluate as Python code.

    Raises:
        UserError: such a value, with its place.
    """
    for path, node in config.root.walk():
        message = code_problem(path, node.value)
        if message:
            raise UserError(f'{node.where}: {dotted(path)}: {message}')


def code_problem(path: tuple, value: object) -> str | None:
    """Why a value at a key path must not reach PaddleSeg's `eval`, or None where it is harmless."""
    pattern = EVALUATED.get(path[-1]) if path else None
    if pattern is None or not isinstance(value, str) or re.fullmatch(pattern, value):
        return None
    return (f'PaddleSeg would run {value!r} as Python code; only a plain name is accepted here '
            f'(pattern {pattern})')


def _quieten_paddleseg() -> None:
    from paddleseg.utils import logger
    logger.log_level = min(logger.log_level, QUIET_LEVEL)


def _no_warmup(tree: dict) -> None:
    # NOTE: `warmup_iters: 0` means none, but PaddleSeg would build a warm-up of no steps, which Paddle refuses.
    schedule = tree.get('lr_scheduler')
    if isinstance(schedule, dict) and schedule.get('warmup_iters') == 0:
        del schedule['warmup_iters']
        schedule.pop('warmup_start_lr', None)


def _whole_number_decay_to_float(tree: dict) -> None:
    # NOTE: PaddleSeg asserts isinstance(weight_decay, float), so `weight_decay: 0` would fail without this.
    section = tree.get('optimizer')
    if isinstance(section, dict) and type(section.get('weight_decay')) is int:
        section['weight_decay'] = float(section['weight_decay'])

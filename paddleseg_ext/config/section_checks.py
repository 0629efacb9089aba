"""Checks of the sections that PaddleSeg reads by hand: top level, losses, optimizer, schedule, test_config."""
from __future__ import annotations

from collections.abc import Iterator

from paddleseg_ext.config.known_keys import (
    CLIP_CLASSES,
    CUSTOM_GROUP,
    EXPORT,
    LOSS,
    LOSS_SECTIONS,
    REQUIRED_SECTIONS,
    TEST_CONFIG,
    TOP_LEVEL,
    Key,
)
from paddleseg_ext.config.review import Finding, Review, suggestion
from paddleseg_ext.config.value_kinds import kind_problem

__all__ = ['check_losses', 'check_optimizer', 'check_plain_sections', 'check_schedule', 'check_sliding',
           'check_top_level']


def check_top_level(review: Review) -> Iterator[Finding]:
    """The sections are known, the needed ones are there, and each is of the right kind."""
    yield from _table(review.tree, TOP_LEVEL, ())
    for name in REQUIRED_SECTIONS:
        if name not in review.tree:
            yield (name,), f'missing: {TOP_LEVEL[name].description}'


def check_plain_sections(review: Review) -> Iterator[Finding]:
    """test_config, export, loss and distill_loss hold known keys of the right kind."""
    for name, table in (('test_config', TEST_CONFIG), ('export', EXPORT), *((name, LOSS) for name in LOSS_SECTIONS)):
        yield from _table(review.section(name), table, (name,))


def _table(section: dict, table: dict[str, Key], path: tuple) -> Iterator[Finding]:
    for key, value in section.items():
        known = table.get(key)
        if known is None:
            yield (*path, key), f'unknown key{suggestion(key, table)}'
            continue
        message = kind_problem(value, known.kinds)
        if message is None and known.minimum is not None and value < known.minimum:
            message = f'must be at least {known.minimum}, got {value}'
        if message is None and known.length is not None and isinstance(value, list) and len(value) != known.length:
            message = f'must have {known.length} values, got {len(value)}: {value}'
        if message:
            yield (*path, key), message


def check_losses(review: Review) -> Iterator[Finding]:
    """As many loss types as weights, or one type for all; weights are numbers."""
    for name in LOSS_SECTIONS:
        section = review.section(name)
        for key in LOSS:
            if name in review.tree and isinstance(review.tree[name], dict) and key not in section:
                yield (name, key), f'missing: {LOSS[key].description}'
        types, weights = section.get('types'), section.get('coef')
        if isinstance(types, list) and isinstance(weights, list):
            if len(types) not in (1, len(weights)):
                yield (name, 'types'), (f'{len(types)} losses but {len(weights)} weights in coef; give as many of '
                                        'one as of the other, or a single loss for all')
            yield from _numbers(weights, (name, 'coef'))
        for index, item in enumerate(types if isinstance(types, list) else ()):
            if not isinstance(item, dict):
                yield (name, 'types', index), f'must be a mapping with the type of a loss, got {item!r}'
    for part in review.losses:
        losses, weights = part.value('losses'), part.value('coef')
        if part.name == 'MixedLoss' and isinstance(losses, list) and isinstance(weights, list):
            yield from _numbers(weights, (*part.path, 'coef'))
            if len(losses) != len(weights):
                yield (*part.path, 'coef'), f'{len(weights)} weights for the {len(losses)} losses of this MixedLoss'


def _numbers(values: list, path: tuple) -> Iterator[Finding]:
    for index, value in enumerate(values):
        message = kind_problem(value, ('float',))
        if message:
            yield (*path, index), message


def check_optimizer(review: Review) -> Iterator[Finding]:
    """Gradient clipping and parameter groups, which reach Paddle unchecked."""
    section = review.section('optimizer')
    clip, groups = section.get('grad_clip_cfg'), section.get('custom_cfg')
    if isinstance(clip, dict):
        yield from _clipping(clip, ('optimizer', 'grad_clip_cfg'))
    for index, group in enumerate(groups if isinstance(groups, list) else ()):
        path = ('optimizer', 'custom_cfg', index)
        if not isinstance(group, dict):
            yield path, f'must be a mapping with name, lr_mult and weight_decay_mult, got {group!r}'
            continue
        if 'name' not in group:
            yield (*path, 'name'), f'missing: {CUSTOM_GROUP["name"].description}'
        yield from _table(group, CUSTOM_GROUP, path)


def _clipping(clip: dict, path: tuple) -> Iterator[Finding]:
    name = clip.get('name')
    table = CLIP_CLASSES.get(name) if isinstance(name, str) else None
    if table is None:
        yield (*path, 'name'), f'unknown gradient clipping {name!r}{suggestion(str(name), CLIP_CLASSES)}'
        return
    yield from _table({key: value for key, value in clip.items() if key != 'name'}, table, path)
    needed = 'max' if name == 'ClipGradByValue' else 'clip_norm'
    if needed not in clip:
        yield (*path, needed), f'missing, {name} needs it'


def check_schedule(review: Review) -> Iterator[Finding]:
    """Learning rates are above 0, and the warm-up is whole and shorter than the training."""
    section, path = review.section('lr_scheduler'), ('lr_scheduler',)
    rate, warmup, iters = section.get('learning_rate'), section.get('warmup_iters'), review.tree.get('iters')
    if _is_number(rate) and not rate > 0:
        yield (*path, 'learning_rate'), f'must be above 0, got {rate}'
    for key in ('end_lr', 'warmup_start_lr', 'eta_min'):
        if _is_number(section.get(key)) and section[key] < 0:
            yield (*path, key), f'must not be negative, got {section[key]}'
    if 'warmup_start_lr' in section and 'warmup_iters' not in section:
        yield (*path, 'warmup_start_lr'), 'has no effect without warmup_iters, and the schedule would refuse it'
    if 'warmup_iters' not in section:
        return
    if 'warmup_start_lr' not in section:
        yield (*path, 'warmup_start_lr'), 'missing, warmup_iters needs it'
    if 'learning_rate' not in section:
        yield (*path, 'learning_rate'), 'missing, warmup_iters needs it'
    if _is_number(warmup) and warmup < 0:
        yield (*path, 'warmup_iters'), f'must not be negative, got {warmup}'
    if _is_number(warmup) and _is_number(iters) and warmup >= iters:
        # Paddle's warm-up has at least one step, so that a single step of training leaves no room for any.
        remedy = f'shorten them, for example by `--opts lr_scheduler.warmup_iters={max(int(iters) // 10, 1)}`' \
            if iters > 1 else 'remove warmup_iters and warmup_start_lr'
        yield (*path, 'warmup_iters'), f'{warmup} warm-up steps do not fit into the {iters} steps of iters; {remedy}'


def check_sliding(review: Review) -> Iterator[Finding]:
    """A sliding window has a size and a step that is not larger."""
    section, path = review.section('test_config'), ('test_config',)
    sizes = {key: section.get(key) for key in ('crop_size', 'stride')}
    if section.get('is_slide') is True:
        for key, value in sizes.items():
            if value is None:
                yield (*path, key), f'missing, is_slide needs it: {TEST_CONFIG[key].description}'
    whole = {key: value for key, value in sizes.items() if isinstance(value, list) and len(value) == 2}
    for key, value in whole.items():
        if not all(isinstance(side, int) and side > 0 for side in value):
            yield (*path, key), f'must be two whole numbers above 0, got {value}'
            return
    if len(whole) == 2 and any(step > side for step, side in zip(whole['stride'], whole['crop_size'])):
        yield (*path, 'stride'), (f'{whole["stride"]} is larger than crop_size {whole["crop_size"]}: '
                                  'pixels between the windows would get no class')


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

"""PaddleSeg's Config and SegBuilder over a tree that is already in memory, with errors for users."""
from __future__ import annotations

from typing import Callable

from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.utils.utils import CachedProperty

from paddleseg_ext.config.parameter_groups import require_groups_match
from paddleseg_ext.errors import UserError

__all__ = ['TreeBuilder', 'TreeConfig']


class TreeConfig(Config):
    """PaddleSeg's Config filled from a merged tree, with PaddleSeg's default rules run on it.

    Args:
        tree: the merged tree; the rules and the builder write into it.

    Raises:
        RuntimeError: a rule is broken (PaddleSeg's message).
    """

    def __init__(self, tree: dict) -> None:
        # NOTE: Config.__init__ is not called because it reads a file with an unsafe loader; the two steps after the
        # reading are the ones here.
        self.dic = tree
        self._build_default_checker().apply_all_rules(self)


def _require_groups_match(builder: SegBuilder) -> None:
    """Every parameter group of the optimizer takes weights of the model."""
    groups = builder.config.optimizer_cfg.get('custom_cfg') or []
    parameters = [(name, not weight.stop_gradient) for name, weight in builder.model.named_parameters()]
    require_groups_match(groups, parameters)


def _guarded(name: str, check: Callable | None = None) -> CachedProperty:
    """SegBuilder's cached property of that name, whose complaints about the configuration become UserErrors.

    `check`, called with the builder before, may raise more of them.
    """
    original = SegBuilder.__dict__[name]

    def build(self):
        try:
            if check is not None:
                check(self)
            return original.func(self)
        except UserError:
            raise
        except (AssertionError, RuntimeError, KeyError) as error:
            raise UserError(f'{name}: {error}') from error

    build.__name__ = name  # the attribute under which CachedProperty keeps the value
    build.__doc__ = original.__doc__
    return CachedProperty(build)


class TreeBuilder(SegBuilder):
    """SegBuilder whose errors name the section and the cause."""

    def build_component(self, cfg: dict) -> object:
        try:
            return super().build_component(cfg)
        except RuntimeError as error:
            cause = error.__context__ or error
            if isinstance(cause, UserError):
                raise cause from cause.__cause__
            raise UserError(f'{cfg.get("type", "a section without type")}: cannot be built: {cause}') from cause

    model = _guarded('model')
    optimizer = _guarded('optimizer', _require_groups_match)
    lr_scheduler = _guarded('lr_scheduler')
    loss = _guarded('loss')
    distill_loss = _guarded('distill_loss')
    train_dataset = _guarded('train_dataset')
    val_dataset = _guarded('val_dataset')
    val_transforms = _guarded('val_transforms')

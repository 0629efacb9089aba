"""PaddleSeg's Config and SegBuilder over a tree that is already in memory, with errors for users."""
from __future__ import annotations

from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.utils.utils import CachedProperty

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


def _guarded(name: str) -> CachedProperty:
    """SegBuilder's cached property of that name, whose complaints about the configuration become UserErrors."""
    original = SegBuilder.__dict__[name]

    def build(self):
        try:
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
    optimizer = _guarded('optimizer')
    lr_scheduler = _guarded('lr_scheduler')
    loss = _guarded('loss')
    distill_loss = _guarded('distill_loss')
    train_dataset = _guarded('train_dataset')
    val_dataset = _guarded('val_dataset')
    val_transforms = _guarded('val_transforms')

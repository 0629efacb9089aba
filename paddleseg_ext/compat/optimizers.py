"""Optimizers of PaddleSeg 2.8.0: parameter groups that undo the model's own learning rates."""
from __future__ import annotations

from paddleseg_ext.compat.faults import Fault

__all__ = ['FAULTS']

# Where a weight keeps the factor that the model gave it, for the next optimizer over the same model.
OWN_FACTOR = 'factor_of_the_model'


def _groups(before):
    """Groups for Paddle: as `custom_cfg` says, and within each as the model's own learning-rate factors say."""

    def _collect_params(self, model):
        if not self.custom_cfg:
            return before(self, model)
        groups = {}
        for name, weight in model.named_parameters():
            if not weight.stop_gradient:
                own = weight.optimize_attr.setdefault(OWN_FACTOR, weight.optimize_attr['learning_rate'])
                index = next((i for i, group in enumerate(self.custom_cfg) if group['name'] in name),
                             len(self.custom_cfg))
                groups.setdefault((index, own), []).append(weight)
        return [_group(self, index, own, groups[index, own]) for index, own in sorted(groups)]

    return _collect_params


def _group(settings, index, own, weights):
    """What Paddle takes: `learning_rate` is a factor on the schedule's, and `weight_decay` a value of its own."""
    entry = settings.custom_cfg[index] if index < len(settings.custom_cfg) else {}
    group = {'params': weights, 'learning_rate': entry.get('lr_mult', 1.0) * own}
    decay = entry.get('weight_decay_mult')
    if settings.weight_decay is not None and decay is not None:
        group['weight_decay'] = float(settings.weight_decay * decay)
    return group


FAULTS = (
    Fault('paddleseg.optimizers.optimizer:BaseOptimizer._collect_params',
          "with parameter groups every weight loses the learning-rate factor of the model (RTFormer's lr_mult)",
          _groups, since=(0, 0)),
)

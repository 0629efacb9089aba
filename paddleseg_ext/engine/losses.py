"""The losses of one step, combined as the `loss` section of the YAML says."""
from __future__ import annotations

import paddle

from paddleseg_ext.errors import UserError

__all__ = ['compute_losses']


def compute_losses(model, logits: list, batch: dict, losses: dict) -> list[paddle.Tensor]:
    """Weighted losses, one or more an output; their sum is what is minimised.

    Args:
        model: one that brings its own `loss_computation` (PaddleSeg's contract for such models) is left to it.
        logits: outputs of the model in training, [N, classes, H, W] each.
        batch: 'label' [N, H, W] class ids, and 'edge' where the data set makes one.
        losses: 'types' and 'coef' as PaddleSeg's builder makes them, as many as outputs.

    Raises:
        UserError: outputs and losses differ in number.
    """
    if hasattr(model, 'loss_computation'):
        return list(model.loss_computation(logits, losses, batch))
    types, weights = losses['types'], losses['coef']
    if len(logits) != len(types):
        raise UserError(f'{type(model).__name__} returns {len(logits)} outputs in training, but the loss section has '
                        f'{len(types)} (coef: {list(weights)}); give one coefficient for each output, for example '
                        f'coef: {[1] * len(logits)}.')
    terms = []
    for logit, loss, weight in zip(logits, types, weights):
        terms += [weight * term for term in _terms(loss, logit, logits, batch)]
    return terms


def _terms(loss, logit, logits, batch) -> list[paddle.Tensor]:
    """What one loss object says of one output, with the three kinds that PaddleSeg treats apart."""
    kind = type(loss).__name__
    if kind == 'KLLoss':
        return [loss(logits[0], logits[1].detach())]
    target = 'edge' if kind == 'BCELoss' and loss.edge_label else 'label'
    if target not in batch:
        raise UserError(f'{kind} with edge_label needs edges; set `edge: true` in train_dataset.')
    value = loss(logit, batch[target].astype('int64'))
    return list(value) if kind == 'MixedLoss' else [value]

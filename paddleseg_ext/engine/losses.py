"""The losses of one step, combined as the `loss` section of the YAML says."""
from __future__ import annotations

import paddle

from paddleseg_ext.errors import UserError

__all__ = ['compute_losses']


def compute_losses(model, logits: list, batch: dict, losses: dict) -> list[paddle.Tensor]:
    """Weighted losses, 0-d, one or more an output; their sum is what is minimised.

    Args:
        model: one that brings its own `loss_computation` (PaddleSeg's contract for such models) is left to it.
        logits: outputs of the model in training, [N, classes, H, W] each.
        batch: 'label' [N, H, W] class ids, and 'edge' where the data set makes one.
        losses: 'types' and 'coef' as PaddleSeg's builder makes them, as many as outputs.

    Raises:
        UserError: outputs and losses differ in number, or a loss is not one number.
    """
    if hasattr(model, 'loss_computation'):
        return [_scalar(term, model) for term in model.loss_computation(logits, losses, batch)]
    types, weights = losses['types'], losses['coef']
    if not isinstance(logits, (list, tuple)):
        raise UserError(f'{type(model).__name__} returns a {type(logits).__name__} in training; a model for training '
                        'returns a list of outputs, one for each loss.')
    if len(logits) != len(types):
        raise UserError(f'{type(model).__name__} returns {len(logits)} outputs in training, but the loss section has '
                        f'{len(types)} (coef: {list(weights)}); give one coefficient for each output, for example '
                        f'coef: {[1] * len(logits)}.')
    terms = []
    for logit, loss, weight in zip(logits, types, weights):
        terms += [weight * _scalar(term, loss) for term in _terms(loss, logit, logits, batch)]
    return terms


def _scalar(term: paddle.Tensor, source) -> paddle.Tensor:
    if term.size != 1:
        raise UserError(f'{type(source).__name__} gives a loss of shape {list(term.shape)}; what is minimised is one '
                        'number, so take its mean (where it has a `reduction`, set it to mean).')
    return term.reshape([])


def _terms(loss, logit, logits, batch) -> list[paddle.Tensor]:
    """What one loss object says of one output, with the three kinds that PaddleSeg treats apart."""
    kind = type(loss).__name__
    if kind == 'MixedLoss':
        return [weight * _scalar(term, part) for part, weight in zip(loss.losses, loss.coef)
                for term in _terms(part, logit, logits, batch)]
    if kind == 'KLLoss':
        if len(logits) < 2:
            raise UserError('KLLoss compares the first two outputs of a model, but this one has a single output.')
        return [loss(logits[0], logits[1].detach())]
    target = 'edge' if kind == 'BCELoss' and loss.edge_label else 'label'
    if target not in batch:
        raise UserError(f'{kind} with edge_label needs edges; set `edge: true` in train_dataset.')
    # NOTE: a copy for each loss, because PaddleSeg's DiceLoss writes into its labels, which others need for gradients.
    return [loss(logit, paddle.assign(batch[target]).astype('int64'))]

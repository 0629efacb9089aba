"""Losses of PaddleSeg 2.8.0 that Paddle 3 breaks: it no longer computes with a float and an integer or bool tensor.

Shapes: N images of H×W pixels, C classes, P sampled points.
"""
from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F

from paddleseg_ext.compat.faults import Fault

__all__ = ['FAULTS']


def _cross_entropy_mean(before):
    """Average the per-pixel loss over the counted pixels, or over the share of them with the largest loss."""

    def _post_process_loss(self, logit, label, semantic_weights, loss):
        # logit [N, H, W, C]; label [N, H, W] int64; loss [N, H, W] or [N, H, W, 1], already times the class weight
        if loss.ndim > label.ndim:
            loss = loss.squeeze(-1)
        counted = label != self.ignore_index if self.avg_non_ignore else paddle.ones_like(label, dtype='bool')
        return _weighted_mean(self, label, counted, semantic_weights, loss)

    return _post_process_loss


def _weighted_mean(settings, label, counted, pixel_weights, loss):
    """The sum of the counted losses over the sum of their class weights, of all of them or of the hardest share.

    Args:
        settings: the loss object: its weight, ignore_index, top_k_percent_pixels and EPS are read.
        label: int64, any shape.
        counted: bool, same shape: where the loss counts.
        pixel_weights: None, or a factor for each loss, same shape.
        loss: float, same shape, already times the class weight.
    """
    counted = counted.astype('float32')
    loss = loss * counted
    if pixel_weights is not None:
        loss = loss * pixel_weights
    share = paddle.ones_like(counted)
    if settings.weight is not None:
        share = _weight_of(label, settings.weight, settings.ignore_index)
    if settings.top_k_percent_pixels == 1.0:
        return loss.mean() / ((share * counted).mean() + settings.EPS)
    kept = int(settings.top_k_percent_pixels * math.prod(loss.shape))
    hardest, where = paddle.topk(loss.flatten(), kept)
    return hardest.mean() / (share.flatten().gather(where).mean() + settings.EPS)


def _weight_of(label, weight, ignore_index):
    """The class weight at every pixel, that of class 0 at ignored ones: label of any shape → float32 of that shape."""
    inside = paddle.where(label == ignore_index, paddle.zeros_like(label), label)
    return paddle.gather(weight, inside.flatten()).reshape(label.shape)


def _point_cross_entropy(before):
    """Cross entropy at sampled points: logits = (logit [N, C, P], points [N, P, 2] in 0…1), label [N, H, W]."""
    from paddleseg.models.losses.point_cross_entropy_loss import point_sample

    def forward(self, logits, label, semantic_weights=None):
        logit, points = logits
        classes = logit.shape[1 if self.data_format == 'NCHW' else -1]
        if self.weight is not None and classes != len(self.weight):
            raise ValueError(f'weight has {len(self.weight)} entries for {classes} classes; give one for each class')
        label = point_sample(label.unsqueeze(1).astype('float32'), points, mode='nearest',
                             align_corners=self.align_corners)
        label = label.squeeze(1).astype('int64').detach()
        loss = F.cross_entropy(logit.transpose([0, 2, 1]), label, weight=self.weight, ignore_index=self.ignore_index,
                               reduction='none')
        return _weighted_mean(self, label, label != self.ignore_index, semantic_weights, loss)

    return forward


def _ohem_cross_entropy(before):
    def forward(self, logit, label):
        return _hard_example_mean(self, logit, _as_maps(label, logit))

    return forward


def _ohem_edge_attention(before):
    def forward(self, logits, label):
        logit, edge = logits[0], logits[1]
        label = _as_maps(label, logit)
        if edge.shape != label.shape:
            raise ValueError(f'edge logit and label must have the same shape, but have {edge.shape} and {label.shape}')
        elsewhere = paddle.full_like(label, self.ignore_index)
        return _hard_example_mean(self, logit, paddle.where(edge > self.edge_threshold, label, elsewhere))

    return forward


def _as_maps(label, logit):
    """label [N, H, W] or [N, 1, H, W] → int64 [N, 1, H, W]."""
    return (label if label.ndim == logit.ndim else label.unsqueeze(1)).astype('int64').detach()


def _hard_example_mean(settings, logit, label):
    """Mean cross entropy over the pixels that are not easy; logit [N, C, H, W], label int64 [N, 1, H, W]."""
    kept = label != settings.ignore_index
    if 0 < settings.min_kept < int(kept.sum()):
        kept = kept & _is_hard(settings, logit.detach(), label, kept)
    label = paddle.where(kept, label, paddle.full_like(label, settings.ignore_index))
    loss = F.cross_entropy(logit, label, ignore_index=settings.ignore_index, axis=1, reduction='none')
    kept = kept.astype('float32')
    return (loss * kept).mean() / (kept.mean() + settings.EPS)


def _is_hard(settings, logit, label, counted):
    """Where the true class has less probability than the threshold, raised until about ``min_kept`` pixels are."""
    inside = paddle.where(counted, label, paddle.zeros_like(label))
    probability = paddle.take_along_axis(F.softmax(logit.astype('float32'), axis=1), inside, axis=1)
    probability = paddle.where(counted, probability, paddle.full_like(probability, 2.0))
    smallest, _ = paddle.kthvalue(probability.flatten(), settings.min_kept)
    return probability < paddle.clip(smallest, min=settings.thresh)


def _region_mutual_information(before):
    """Masked one-hot labels and masked sigmoids into the original's lower bound."""
    from paddleseg.models.losses import rmi_loss

    def forward_sigmoid(self, logits_4D, labels_4D, do_rmi=False):
        counted = labels_4D != self.ignore_index
        classes = paddle.where(counted, labels_4D, paddle.zeros_like(labels_4D)).astype('int64')
        counted = counted.astype('float32')
        truth = F.one_hot(classes, self.num_classes) * counted.unsqueeze(3)
        chance = F.sigmoid(logits_4D) * counted.unsqueeze(1) + rmi_loss._CLIP_MIN
        return self.rmi_lower_bound(truth.transpose([0, 3, 1, 2]).detach(), chance)

    return forward_sigmoid


def _dual_task(before):
    """The difference of predicted and true class edges, averaged over the one's edges and over the other's."""

    def forward(self, logit, labels):
        labels = _as_maps(labels, logit)
        counted = labels != self.ignore_index
        classes = paddle.where(counted, labels, paddle.zeros_like(labels)).squeeze(1)
        counted = counted.astype('float32')
        truth = F.one_hot(classes, logit.shape[1]).transpose([0, 3, 1, 2])
        predicted = self.compute_grad_mag(self._gumbel_softmax_sample(logit * counted, tau=self.tau))
        true = self.compute_grad_mag(truth)
        difference = (predicted - true).abs() * counted
        return 0.5 * (_mean_where(difference, predicted > 1e-8) + _mean_where(difference, true > 1e-8))

    return forward


def _mean_where(values, where):
    """The mean of the values at the places, 0 if there is none; both of one shape → 0-d."""
    where = where.astype(values.dtype).detach()
    return (values * where).sum() / paddle.clip(where.sum(), min=1.0)


def _float_one_hot(before):
    def relax_onehot(self, label, num_classes):
        return before(self, label, num_classes).astype('float32')

    return relax_onehot


def _float_label(before):
    """Losses that take the difference of prediction and label: class ids come from the loader as integers."""

    def forward(self, input, label):
        return before(self, input, label.astype(input.dtype))

    return forward


_PROMOTION = 'float × integer raises a type promotion error '
_LOSSES = 'paddleseg.models.losses.'
FAULTS = (
    Fault(_LOSSES + 'cross_entropy_loss:CrossEntropyLoss._post_process_loss',
          _PROMOTION + 'in every training step, with and without weight',
          _cross_entropy_mean),
    Fault(_LOSSES + 'point_cross_entropy_loss:PointCrossEntropyLoss.forward',
          _PROMOTION + '(before Paddle 3, the loss is multiplied by the class id instead of the class weight)',
          _point_cross_entropy, since=(0, 0)),
    Fault(_LOSSES + 'ohem_cross_entropy_loss:OhemCrossEntropyLoss.forward',
          _PROMOTION + 'when there are more pixels than min_kept',
          _ohem_cross_entropy),
    Fault(_LOSSES + 'ohem_edge_attention_loss:OhemEdgeAttentionLoss.forward',
          _PROMOTION + 'when there are more edge pixels than min_kept',
          _ohem_edge_attention),
    Fault(_LOSSES + 'rmi_loss:RMILoss.forward_sigmoid',
          _PROMOTION + '(float × bool mask)',
          _region_mutual_information),
    Fault(_LOSSES + 'gscnn_dual_task_loss:DualTaskLoss.forward',
          _PROMOTION + '(float × bool mask)',
          _dual_task),
    Fault(_LOSSES + 'decoupledsegnet_relax_boundary_loss:RelaxBoundaryLoss.relax_onehot',
          _PROMOTION + '(Paddle 2.6 truncates the loss to integers: its gradient is zero)',
          _float_one_hot, since=(0, 0)),
    Fault(_LOSSES + 'l1_loss:L1Loss.forward',
          'the difference of float predictions and integer labels raises',
          _float_label, since=(0, 0)),
    Fault(_LOSSES + 'mean_square_error_loss:MSELoss.forward',
          'the difference of float predictions and integer labels raises',
          _float_label, since=(0, 0)),
)

"""PaddleSeg 2.8.0's evaluation and training loop: what Paddle's 0-d tensors break."""
from __future__ import annotations

import sys

import paddle
from paddle import profiler

from paddleseg_ext.compat.faults import Fault

__all__ = ['FAULTS']


def _areas(before):
    """Pixels per class: in both, predicted, labelled."""

    def calculate_area(pred, label, num_classes, ignore_index=255):
        pred, label = (x.squeeze(1) if x.ndim == 4 else x for x in (pred, label))
        if pred.shape != label.shape:
            raise ValueError(f'prediction and label must have the same shape, but have {pred.shape} and {label.shape}')
        counted = label != ignore_index
        predicted = _count(pred, counted, num_classes)
        hit = _count(label, counted & (pred == label.astype(pred.dtype)), num_classes)
        # NOTE: labels are counted unmasked because the original does so; it matters for ignore_index < num_classes.
        labelled = _count(label, paddle.ones_like(counted), num_classes)
        return hit, predicted, labelled

    return calculate_area


def _count(ids, counted, num_classes):
    """How often each of the classes 0 … num_classes-1 stands in ``ids`` where ``counted``: int64 [num_classes]."""
    inside = counted & (ids >= 0) & (ids < num_classes)
    ids = paddle.where(inside, ids.astype('int64'), paddle.full(ids.shape, num_classes, 'int64'))
    return paddle.bincount(ids.flatten(), minlength=num_classes + 1)[:num_classes]


def _loss_vectors(before):
    """Every loss as a vector of one element: the loop logs ``loss.numpy()[0]``."""

    def loss_computation(logits_list, labels, edges, losses):
        return [loss.reshape([1]) for loss in before(logits_list, labels, edges, losses)]

    return loss_computation


def _profiler_step(before):
    """Profile the steps of ``batch_range`` with paddle.profiler; options as ``ProfilerOptions`` documents them."""
    from paddleseg.utils.train_profiler import ProfilerOptions
    running = {'step': 0, 'profiler': None}

    def add_profiler_step(options_str=None):
        if options_str is None:
            return
        options = ProfilerOptions(options_str)
        first, last = options['batch_range'][:2]
        if running['step'] == first:
            running['profiler'] = _start_profiler(options['state'])
        elif running['step'] == last:
            _finish_profiler(running['profiler'], options['sorted_key'], options['profile_path'])
            if options['exit_on_finished']:
                sys.exit(0)
        running['step'] += 1

    return add_profiler_step


def _start_profiler(state):
    targets = {'CPU': ['CPU'], 'GPU': ['GPU'], 'All': ['CPU', 'GPU']}[state]
    if not paddle.is_compiled_with_cuda():
        targets = ['CPU']
    started = profiler.Profiler(targets=[getattr(profiler.ProfilerTarget, target) for target in targets],
                                on_trace_ready=lambda finished: None)
    started.start()
    return started


def _finish_profiler(started, sorted_key, path):
    started.stop()
    columns = {'total': 'Total', 'max': 'Max', 'min': 'Min', 'ave': 'Avg', 'calls': 'Total'}
    started.summary(sorted_by=getattr(profiler.SortedKeys, 'CPU' + columns[sorted_key]))
    started.export(path, format='json')


FAULTS = (
    Fault('paddleseg.utils.metrics:calculate_area',
          'concat of 0-d tensors raises in every evaluation',
          _areas, since=(0, 0)),
    Fault('paddleseg.core.train:loss_computation',
          'losses are 0-d, and the training loop takes their element 0 at the first log line',
          _loss_vectors, since=(0, 0)),
    Fault('paddleseg.utils.train_profiler:add_profiler_step',
          'paddle.utils.profiler is gone: every use of profiler options raises',
          _profiler_step, since=(0, 0)),
)

"""PaddleSeg's own losses and transforms, as they are and as compat mends them, do what they should."""
from __future__ import annotations

import numpy as np
import paddle
import pytest
from loss_inputs import CLASSES, IGNORE, WEIGHT, random_maps
from paddleseg.cvlibs import manager
from paddleseg.models import losses

from paddleseg_ext import compat
from paddleseg_ext.environment import parse_version

# NOTE: PaddleSeg's own code draws these from Paddle and numpy.
pytestmark = [pytest.mark.filterwarnings(f'ignore:{text}') for text in (
    r'\s*Non compatible API', r'[\s\S]*is deprecated since 2.0.0', 'Conversion of an array with ndim > 0',
    'To copy construct from a tensor', 'The input state dict is empty')]
PADDLE = parse_version(paddle.__version__)
compat.apply()


def _class_maps(channels=CLASSES, **kwargs):
    logit, label = random_maps(channels, height=16, width=17, **kwargs)
    return paddle.to_tensor(logit), paddle.to_tensor(label)


def _other_maps():
    logit, label = _class_maps()
    return logit, paddle.to_tensor(random_maps(height=16, width=17, seed=9)[0]), label


def _edges():
    logit, label = _class_maps()
    return [logit, paddle.to_tensor(random_maps(1, height=16, width=17)[0])], label


def _embedding():
    logit, label = _class_maps()
    embedding = paddle.to_tensor(0.3 * random_maps(8, height=16, width=17)[0])
    return {'embed': embedding, 'seg': logit}, label.astype('float32')


def _points():
    _, label = _class_maps()
    random = np.random.RandomState(0)
    return [paddle.to_tensor(random.randn(2, CLASSES, 30).astype('float32')),
            paddle.to_tensor(random.rand(2, 30, 2).astype('float32'))], label


def _masks():
    random = np.random.RandomState(0)
    queries = {'pred_logits': paddle.to_tensor(random.randn(2, 6, CLASSES + 1).astype('float32')),
               'pred_masks': paddle.to_tensor(random.randn(2, 6, 8, 8).astype('float32'))}
    truth = {'gt_classes': paddle.to_tensor([[0, 1, 3, IGNORE], [2, IGNORE, IGNORE, IGNORE]]),
             'gt_masks': paddle.to_tensor((random.rand(2, 4, 16, 16) > 0.5).astype('float32'))}
    return queries, truth


def _mixed_losses():
    return {'losses': [losses.CrossEntropyLoss(), losses.LovaszSoftmaxLoss()], 'coef': [0.8, 0.2]}


LOSSES = {
    'BCELoss': ({'weight': 'dynamic', 'pos_weight': 'dynamic'}, lambda: _class_maps(1)),
    'BootstrappedCrossEntropyLoss': ({'min_K': 20, 'loss_th': 0.3}, _class_maps),
    'CrossEntropyLoss': ({'weight': WEIGHT}, _class_maps),
    'DetailAggregateLoss': ({}, lambda: _class_maps(1)),
    'DiceLoss': ({}, _class_maps),
    'DistillCrossEntropyLoss': ({}, _other_maps),
    'DualTaskLoss': ({}, _class_maps),
    'EdgeAttentionLoss': ({'edge_threshold': 0.1}, _edges),
    'FocalLoss': ({}, lambda: _class_maps(2)),
    'KLLoss': ({}, _other_maps),
    'L1Loss': ({}, lambda: _other_maps()[:2]),
    'LovaszHingeLoss': ({}, lambda: _class_maps(2)),
    'LovaszSoftmaxLoss': ({}, _class_maps),
    'MSELoss': ({}, lambda: _other_maps()[:2]),
    'MaskFormerLoss': ({'num_classes': CLASSES}, _masks),
    'MixedLoss': (_mixed_losses, _class_maps),
    'MultiClassFocalLoss': ({'num_class': CLASSES}, _class_maps),
    'OhemCrossEntropyLoss': ({'min_kept': 50}, _class_maps),
    'OhemEdgeAttentionLoss': ({'edge_threshold': 0.1, 'min_kept': 50}, _edges),
    'PixelContrastCrossEntropyLoss': ({'max_samples': 40, 'max_views': 10}, _embedding),
    'PointCrossEntropyLoss': ({'weight': WEIGHT}, _points),
    'RMILoss': ({'num_classes': CLASSES}, _class_maps),
    'RelaxBoundaryLoss': ({}, _class_maps),
    'SECrossEntropyLoss': ({}, lambda: (_class_maps()[0][:, :, 0, 0], _class_maps()[1])),
    'SemanticConnectivityLoss': ({'use_argmax': False}, lambda: (_class_maps(1)[0][:, 0], _class_maps(2)[1])),
}


def test_every_registered_loss_is_tried():
    paddleseg_losses = {name for name, loss in manager.LOSSES.components_dict.items()
                        if loss.__module__.startswith('paddleseg.')}
    assert paddleseg_losses == set(LOSSES)


@pytest.mark.parametrize('name', LOSSES)
def test_loss_has_the_gradient_of_its_value(name):
    settings, inputs = LOSSES[name]
    loss = manager.LOSSES[name](**(settings() if callable(settings) else settings))
    if name == 'MaskFormerLoss' and PADDLE < (3,):
        with pytest.raises(RuntimeError, match='gather'):
            loss(*inputs())
        return
    logits, rest = inputs()[0], lambda: inputs()[1:]
    tensor = logits if isinstance(logits, paddle.Tensor) else (
        logits[0] if isinstance(logits, list) else next(iter(logits.values())))
    tensor.stop_gradient = False

    def value():
        paddle.seed(3)
        result = loss(logits, *rest())  # NOTE: fresh labels, because DiceLoss writes into them.
        return sum(result) if isinstance(result, list) else result

    value().backward()
    if name == 'SemanticConnectivityLoss':  # NOTE: PaddleSeg computes it from a copy of the logits, on every Paddle.
        assert tensor.grad is None and np.isfinite(float(value()))
    else:
        _check_slope(value, tensor)


def _check_slope(value, tensor):
    """The change of the value along its gradient is the gradient's squared length."""
    gradient, start = tensor.grad.numpy(), tensor.numpy()
    length = np.linalg.norm(gradient)
    assert length > 0
    ends = []
    for sign in (1, -1):
        tensor.set_value((start + sign * 1e-2 * gradient / length).astype('float32'))
        ends.append(float(value()))
    assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(length, rel=0.05)


# --- every transform of PaddleSeg keeps image and label together ------------------------------------------------------

TRANSFORMS = {
    'GenerateInstanceTargets': {'num_classes': CLASSES},
    'LimitLong': {'max_long': 40},
    'Padding': {'target_size': (70, 60)},
    'PaddingByAspectRatio': {},
    'RandomAffine': {'size': (40, 30)},
    'RandomBlur': {'prob': 1.0},
    'RandomCenterCrop': {},
    'RandomDistort': {'sharpness_prob': 0.5},
    'RandomPaddingCrop': {'crop_size': (32, 24), 'category_max_ratio': 0.9},
    'RandomRotation': {},
    'RandomScaleAspect': {},
    'Resize': {'target_size': (40, 30)},
    'ResizeByLong': {'long_size': 40},
    'ResizeByShort': {'short_size': 40},
    'ResizeRangeScaling': {'min_value': 30, 'max_value': 60},
    'ResizeStepScaling': {},
    'ScalePadding': {'target_size': (40, 40)},
}


@pytest.mark.parametrize('name', sorted(set(manager.TRANSFORMS.components_dict) - {'Compose'}))
def test_transform(name):
    transform = manager.TRANSFORMS[name](**TRANSFORMS.get(name, {}))
    random = np.random.RandomState(0)
    label = np.kron(random.randint(0, 2, (6, 8)) * 3, np.ones((8, 8))).astype('uint8')
    data = transform({'img': random.randint(0, 255, (48, 64, 3)).astype('float32'), 'label': label, 'trans_info': [],
                      'gt_fields': ['label']})
    assert data['img'].shape[:2] == data['label'].shape
    assert np.isfinite(data['img']).all()
    # NOTE: ScalePadding resizes labels with bicubic interpolation and so invents ids, on every Paddle: left as it is.
    assert (set(np.unique(data['label'])) <= {0, 3, IGNORE}) is (name != 'ScalePadding')

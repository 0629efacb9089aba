"""Every entry of compat.FAULTS: broken without it on this Paddle, right with it."""
from __future__ import annotations

import inspect
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import paddleseg
import pytest
from loss_inputs import CLASSES, IGNORE, WEIGHT, random_maps
from paddleseg.models import losses

from paddleseg_ext import compat
from paddleseg_ext.environment import parse_version

# NOTE: PaddleSeg's own code draws these from Paddle and numpy.
pytestmark = [pytest.mark.filterwarnings(f'ignore:{text}') for text in (
    r'\s*Non compatible API', r'[\s\S]*is deprecated since 2.0.0', 'Conversion of an array with ndim > 0',
    'To copy construct from a tensor', 'The input state dict is empty')]
IN_FORCE = compat.apply()
PADDLE = parse_version(paddle.__version__)


def _softmax(logit, axis=1):
    powers = np.exp(logit - logit.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def _true_class(values, label):
    """values [N, C, H, W] at the class of label [N, H, W], class 0 where it is ignored → [N, H, W]."""
    inside = np.where(label == IGNORE, 0, label)
    return np.take_along_axis(values, inside[:, None], 1)[:, 0]


def _call(loss, logit, label):
    return float(loss(paddle.to_tensor(logit), paddle.to_tensor(label)))


# --- one case per fault: what it gives now, and what it should give by an independent computation -------------------

def _cross_entropy():
    logit, label = random_maps()
    pixel = -np.log(_true_class(_softmax(logit), label)) * (label != IGNORE)
    share = np.array(WEIGHT)[np.where(label == IGNORE, 0, label)]
    weighted = pixel * share
    hardest = np.argsort(-weighted.ravel())[:int(0.3 * weighted.size)]
    factors = np.random.RandomState(5).rand(*label.shape).astype('float32')
    tensors = paddle.to_tensor(logit), paddle.to_tensor(label)
    got = [_call(losses.CrossEntropyLoss(), logit, label),
           _call(losses.CrossEntropyLoss(weight=WEIGHT), logit, label),
           _call(losses.CrossEntropyLoss(weight=WEIGHT, top_k_percent_pixels=0.3), logit, label),
           _call(losses.CrossEntropyLoss(avg_non_ignore=False), logit, label),
           float(losses.CrossEntropyLoss()(*tensors, paddle.to_tensor(factors)))]
    counted = (label != IGNORE).sum()
    return got, [pixel.sum() / counted, weighted.sum() / share[label != IGNORE].sum(),
                 weighted.ravel()[hardest].mean() / share.ravel()[hardest].mean(),
                 pixel.mean(), (pixel * factors).sum() / counted]


def _point_cross_entropy():
    logit, label = random_maps()
    images, height, width = label.shape
    random = np.random.RandomState(1)
    rows, columns = random.randint(0, height, (images, 20)), random.randint(0, width, (images, 20))
    points = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=-1).astype('float32')
    at_points = np.stack([logit[i][:, rows[i], columns[i]] for i in range(images)])
    truth = np.stack([label[i, rows[i], columns[i]] for i in range(images)])
    pixel = -np.log(_true_class(_softmax(at_points)[..., None], truth[..., None])[..., 0]) * (truth != IGNORE)
    share = np.array(WEIGHT)[np.where(truth == IGNORE, 0, truth)]
    inputs = [paddle.to_tensor(at_points), paddle.to_tensor(points)], paddle.to_tensor(label)
    got = [float(losses.PointCrossEntropyLoss(weight=weight)(*inputs)) for weight in (None, WEIGHT)]
    counted = truth != IGNORE
    return got, [pixel.sum() / counted.sum(), (pixel * share).sum() / share[counted].sum()]


def _ohem_mean(logit, label, *, thresh, min_kept):
    """Over the pixels whose true class has less probability than thresh, or than the min_kept-th smallest one."""
    chance = _true_class(_softmax(logit), label)
    counted = label != IGNORE
    limit = max(thresh, np.sort(chance[counted])[min_kept - 1])
    return -np.log(chance[counted & (chance < limit)]).mean()


def _ohem_cross_entropy():
    logit, label = random_maps()
    settings = [{'thresh': 0.2, 'min_kept': 20}, {'thresh': 0.05, 'min_kept': 60}]
    return ([_call(losses.OhemCrossEntropyLoss(**given), logit, label) for given in settings],
            [_ohem_mean(logit, label, **given) for given in settings])


def _ohem_edge_attention():
    logit, label = random_maps()
    edge = np.random.RandomState(2).rand(2, 1, 9, 10).astype('float32')
    on_edges = np.where(edge[:, 0] > 0.5, label, IGNORE)
    loss = losses.OhemEdgeAttentionLoss(edge_threshold=0.5, thresh=0.2, min_kept=20)
    got = float(loss([paddle.to_tensor(logit), paddle.to_tensor(edge)], paddle.to_tensor(label)))
    return got, _ohem_mean(logit, on_edges, thresh=0.2, min_kept=20)


def _region_mutual_information():
    logit, label = random_maps(height=18, width=21)
    counted = (label != IGNORE)[:, None]
    truth = np.eye(CLASSES)[np.where(label == IGNORE, 0, label)].transpose(0, 3, 1, 2) * counted
    chance = counted / (1 + np.exp(-logit.astype('float64'))) + 1e-6
    total = 0.0
    for channel in range(CLASSES):
        values = [_rmi_bound(_max_cells(truth[i, channel]), _max_cells(chance[i, channel])) for i in range(2)]
        total += np.mean(values) / 9
    return _call(losses.RMILoss(num_classes=CLASSES), logit, label), total


def _max_cells(image):
    """Max pooling, 3×3 with stride 3 and padding 1: [H, W] → [⌈(H+2-2)/3⌉, …]."""
    padded = np.pad(image, 1, constant_values=-np.inf)
    height, width = ((size - 3) // 3 + 1 for size in padded.shape)
    return np.array([[padded[3 * i:3 * i + 3, 3 * j:3 * j + 3].max() for j in range(width)] for i in range(height)])


def _rmi_bound(truth, chance):
    """Half the log determinant of the conditional covariance of 3×3 neighbourhoods."""
    height, width = truth.shape
    vectors = [np.stack([image[y:y + height - 2, x:x + width - 2].ravel() for y in range(3) for x in range(3)])
               for image in (truth, chance)]
    truth, chance = (values - values.mean(1, keepdims=True) for values in vectors)
    small = 5e-4 * np.eye(9)
    cross = truth @ chance.T
    left = truth @ truth.T - cross @ np.linalg.inv(chance @ chance.T + small) @ cross.T
    return 0.5 * np.linalg.slogdet(left + small)[1]


def _dual_task():
    logit, label = random_maps(height=12, width=13)
    loss = losses.DualTaskLoss()
    loss._gumbel_softmax_sample = lambda x, tau: paddle.nn.functional.softmax(x / tau, axis=1)
    counted = (label != IGNORE)[:, None]
    truth = np.eye(CLASSES, dtype='float32')[np.where(label == IGNORE, 0, label)].transpose(0, 3, 1, 2)
    edges = [loss.compute_grad_mag(paddle.to_tensor(x.astype('float32'))).numpy()
             for x in (_softmax(logit * counted / loss.tau), truth)]
    difference = np.abs(edges[0] - edges[1]) * counted
    return _call(loss, logit, label), 0.5 * sum(difference[edge > 1e-8].mean() for edge in edges)


def _relax_boundary():
    logit, label = random_maps(images=1)
    height, width = label.shape[1:]
    chance = _softmax(logit)[0]
    total, counted = 0.0, 0
    for y in range(height):
        for x in range(width):
            around = set(label[0, max(y - 1, 0):y + 2, max(x - 1, 0):x + 2].ravel()) - {IGNORE}
            if around:
                total -= np.log(sum(chance[c, y, x] for c in around))
                counted += 1
    return _call(losses.RelaxBoundaryLoss(), logit, label), total / (counted + 1)


def _absolute_difference():
    logit, label = random_maps(1)
    counted = label != IGNORE
    return (_call(losses.L1Loss(), logit, label[:, None]), np.abs(logit[:, 0] - label)[counted].mean())


def _square_difference():
    logit, label = random_maps(1)
    return _call(losses.MSELoss(), logit, label[:, None]), ((logit[:, 0] - label) ** 2).mean()


def _areas():
    random = np.random.RandomState(0)
    predicted, label = random.randint(0, CLASSES, (2, 2, 1, 9, 10))
    label[0, 0, :2] = IGNORE
    areas = paddleseg.utils.metrics.calculate_area(paddle.to_tensor(predicted.astype('int32')), paddle.to_tensor(label),
                                                   CLASSES)
    counted = label != IGNORE
    expected = [[np.sum((predicted == c) & (label == c)) for c in range(CLASSES)],
                [np.sum((predicted == c) & counted) for c in range(CLASSES)],
                [np.sum(label == c) for c in range(CLASSES)]]
    return np.stack([area.numpy() for area in areas]), np.array(expected)


class _Pictures(paddle.io.Dataset):
    """Two pictures as PaddleSeg's training loop reads them."""
    num_classes, ignore_index = 2, IGNORE

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {'img': np.full((3, 8, 8), index, 'float32'), 'label': np.full((8, 8), index, 'int64')}


class _Segmentor(paddle.nn.Layer):
    """The smallest model PaddleSeg's training loop takes."""

    def __init__(self):
        super().__init__()
        self.classify = paddle.nn.Conv2D(3, 2, 1)

    def forward(self, x):
        return [self.classify(x)]


def _training_loop():
    """PaddleSeg's own train(): 2 steps, logged."""
    import tempfile
    model = _Segmentor()
    before = model.classify.weight.numpy()
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        paddleseg.core.train(model, _Pictures(), optimizer=optimizer, save_dir=folder, iters=2, batch_size=2,
                             log_iters=1, losses={'types': [losses.CrossEntropyLoss()], 'coef': [1.0]})
    return float(np.abs(model.classify.weight.numpy() - before).max() > 0), 1.0


def _profiler():
    """A profile of the second step is written and the process goes on."""
    import json
    import os
    import tempfile

    from paddleseg.utils import train_profiler
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'profile')
        for _ in range(3):
            train_profiler.add_profiler_step(f'batch_range=[1,2];state=CPU;profile_path={path};exit_on_finished=False')
            paddle.ones([3]).exp()
        with open(path, encoding='utf-8') as written:
            return float('traceEvents' in json.load(written)), 1.0


def _warp(owner):
    """No flow gives the map itself; a flow of one cell to the right gives its right neighbour."""
    image = np.random.RandomState(0).rand(2, 3, 5, 7).astype('float32')
    still = np.zeros((2, 2, 5, 7), 'float32')
    right = still.copy()
    right[:, 0] = 2 * 7 / 6
    size = paddle.to_tensor([5, 7], dtype='int32')
    got = [owner.flow_warp(None, paddle.to_tensor(image), paddle.to_tensor(flow), size).numpy()
           for flow in (still, right)]
    return np.concatenate([got[0], got[1][..., :-1]], axis=-1), np.concatenate([image, image[..., 1:]], axis=-1)


def _uncertain_points():
    from paddleseg.models.pointrend import PointHead
    uncertainty = np.random.RandomState(0).permutation(2 * 35).reshape(2, 1, 5, 7).astype('float32')
    indices = np.argsort(-uncertainty.reshape(2, 35), axis=1)[:, :4]
    points = np.stack([(indices % 7 + 0.5) / 7, (indices // 7 + 0.5) / 5], axis=-1)
    head = SimpleNamespace(subdivision_num_points=paddle.to_tensor(4, dtype='int32'))
    got = PointHead.get_points_test(head, paddle.to_tensor(uncertainty), lambda x: x)
    return (np.concatenate([got[0].numpy()[..., None], got[1].numpy()], axis=-1),
            np.concatenate([indices[..., None], points], axis=-1))


def _untrained_vit():
    from paddleseg.models.backbones.vision_transformer import VisionTransformer
    model = VisionTransformer(img_size=32, patch_size=16, embed_dim=8, depth=1, num_heads=2)
    features, shape = model(paddle.zeros([1, 3, 32, 32]))
    return [*features[0].shape, *shape.numpy()], [1, 4, 8, 1, 8, 2, 2]


def _balanced_crops():
    """The share of crops that are right: of the size, the image as it was, and no class above the ratio."""
    from paddleseg.transforms import RandomPaddingCrop
    label = np.zeros((40, 60), 'uint8')
    label[:, 30:] = 1
    np.random.seed(0)
    right = []
    for _ in range(20):
        image = np.repeat(label[..., None] * 100.0, 3, 2).astype('float32')
        crop = RandomPaddingCrop(crop_size=(20, 10), category_max_ratio=0.9, loop_times=50)
        data = crop({'img': image, 'label': label.copy(), 'gt_fields': ['label']})
        right.append(data['img'].shape == (10, 20, 3) and data['label'].shape == (10, 20)
                     and np.array_equal(data['img'][..., 0], data['label'] * 100.0)
                     and max(np.mean(data['label'] == c) for c in (0, 1)) < 0.9)
    return np.mean(right), 1.0


def _factors_in_groups():
    """Learning-rate factors of two weights, of which the model gave one, in a group and beside it."""
    from paddleseg.optimizers.optimizer import AdamW
    model = paddle.nn.Linear(2, 2, weight_attr=paddle.ParamAttr(learning_rate=10.0))
    factors = []
    for groups in (None, [{'name': 'weight', 'lr_mult': 0.5}], [{'name': 'bias', 'lr_mult': 0.5}]):
        AdamW(custom_cfg=groups)(model, 0.1)
        factors.append([weight.optimize_attr['learning_rate'] for weight in (model.weight, model.bias)])
    return factors, [[10.0, 1.0], [5.0, 1.0], [10.0, 0.5]]


CASES = {
    'BaseOptimizer._collect_params': _factors_in_groups,
    'CrossEntropyLoss._post_process_loss': _cross_entropy,
    'PointCrossEntropyLoss.forward': _point_cross_entropy,
    'OhemCrossEntropyLoss.forward': _ohem_cross_entropy,
    'OhemEdgeAttentionLoss.forward': _ohem_edge_attention,
    'RMILoss.forward_sigmoid': _region_mutual_information,
    'DualTaskLoss.forward': _dual_task,
    'RelaxBoundaryLoss.relax_onehot': _relax_boundary,
    'L1Loss.forward': _absolute_difference,
    'MSELoss.forward': _square_difference,
    'AlignedModule.flow_warp': lambda: _warp(sys.modules['paddleseg.models.sfnet'].AlignedModule),
    'SqueezeBodyEdge.flow_warp': lambda: _warp(sys.modules['paddleseg.models.decoupled_segnet'].SqueezeBodyEdge),
    'PointHead.get_points_test': _uncertain_points,
    'VisionTransformer.init_weight': _untrained_vit,
    'calculate_area': _areas,
    'loss_computation': _training_loop,
    'add_profiler_step': _profiler,
    'RandomPaddingCrop.__call__': _balanced_crops,
}


@pytest.mark.parametrize('name', IN_FORCE)
def test_mended(name):
    got, expected = CASES[name]()
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize('name', IN_FORCE)
def test_broken_without(name, monkeypatch):
    if name == 'calculate_area' and PADDLE < (3,):
        assert _exit_code_of_original_areas() != 0  # NOTE: the original ends the process with SIGSEGV on Paddle 2.6.
        return
    owner, attribute = _fault(name).owner()
    monkeypatch.setattr(owner, attribute, compat.original(name))
    try:
        got, expected = CASES[name]()
    except (TypeError, ValueError, IndexError, RuntimeError, ImportError, AttributeError, AssertionError) as error:
        if 'type promotion error' in _fault(name).why and PADDLE >= (3,):
            assert 'Type promotion' in str(error)
        return
    assert not np.allclose(got, expected, rtol=1e-2)


def _fault(name):
    return next(fault for fault in compat.FAULTS if fault.name == name)


def _exit_code_of_original_areas():
    code = ('import paddle; from paddleseg.utils import metrics; x = paddle.zeros([1, 4, 4], "int64"); '
            'metrics.calculate_area(x, x, 2)')
    return subprocess.run([sys.executable, '-c', code], capture_output=True).returncode


def test_every_fault_has_a_case():
    assert {fault.name for fault in compat.FAULTS} == set(CASES)
    assert len({fault.name for fault in compat.FAULTS}) == len(compat.FAULTS)


# --- the guard, and nothing else touched ---------------------------------------------------------------------------

@pytest.mark.parametrize(('version', 'broken'), [('2.6.2', False), ('3.0.0', True), ('3.0.0rc1', True), ('3.2.2', True),
                                                 ('0.0.0', True)])
def test_promotion_faults_are_those_of_paddle_3(version, broken):
    assert _fault('CrossEntropyLoss._post_process_loss').broken_on(version) is broken
    assert _fault('calculate_area').broken_on(version)


def test_in_force_is_what_this_paddle_breaks():
    assert compat.apply() == [fault.name for fault in compat.FAULTS if fault.broken_on(paddle.__version__)]


def test_apply_twice_keeps_the_originals():
    before = {name: compat.original(name) for name in IN_FORCE}
    compat.apply()
    assert {name: compat.original(name) for name in IN_FORCE} == before
    assert all('paddleseg_ext' not in function.__module__ for function in before.values())


def test_other_paddleseg_is_left_alone(monkeypatch):
    monkeypatch.setattr(compat, '_ORIGINALS', {})
    monkeypatch.setattr(compat, 'installed_version', lambda name: '2.9.0')
    assert compat.apply() == []


def test_original_of_unknown_entry():
    with pytest.raises(KeyError, match='RTFormer.*has not been mended; mended are .*CrossEntropyLoss'):
        compat.original('RTFormer')


def test_nothing_else_is_replaced():
    found = set()
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith('paddleseg.'):
            for name, value in vars(module).items():
                found |= _ours(name, value)
    assert found == {fault.name for fault in compat.FAULTS if fault.name in IN_FORCE}


def _ours(name, value):
    if inspect.isclass(value) and value.__module__.startswith('paddleseg.'):
        return {f'{value.__name__}.{key}' for key, member in vars(value).items() if _from_compat(member)}
    return {name} if _from_compat(value) else set()


def _from_compat(value):
    return inspect.isfunction(value) and value.__module__.startswith('paddleseg_ext.compat')

"""`paddleseg models`: counts against hand counts and published figures, and the three ways to print them."""
from __future__ import annotations

import contextlib
import json

import paddle
import paddle.nn.functional as F
import pytest
from helpers import run_cli
from paddle import nn

from paddleseg_ext.engine import catalogue
from paddleseg_ext.engine.operation_count import _Counter, count_macs, count_parameters
from paddleseg_ext.errors import UserError
from paddleseg_ext.models.rtformer import RTFormer

SMALL = (64, 96)


@pytest.fixture(scope='module')
def rows():
    return catalogue.list_models(input_size=SMALL)


class Everything(nn.Layer):
    """One of each operator that counts, and some that do not."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Conv2D(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2D(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2D(8, 6, 1, groups=2)
        self.up = nn.Conv2DTranspose(8, 4, 2, stride=2)
        self.norm = nn.BatchNorm2D(8)
        self.linear = nn.Linear(8, 5)
        self.weight = self.create_parameter([6, 8, 1, 1])
        self.frozen = self.create_parameter([100])
        self.frozen.stop_gradient = True

    def forward(self, x):
        y = F.relu(self.norm(self.depthwise(self.dense(x))))  # [N, 8, H/2, W/2]
        self.grouped(y)
        self.up(y)
        F.conv2d(y, self.weight)
        tokens = y.flatten(2)  # [N, 8, n]
        turned = tokens.transpose([0, 2, 1])
        paddle.matmul(tokens, turned)
        tokens.matmul(tokens, transpose_y=True)
        paddle.matmul(tokens, tokens, transpose_x=True)
        paddle.bmm(turned, tokens)
        tokens @ turned
        return self.linear(turned)


# At the second size nothing but the shapes is computed.
@pytest.mark.parametrize('batch, height, width', [(2, 8, 12), (2, 160, 120)])
def test_counts_what_runs(batch, height, width):
    n = height * width // 4
    convolutions = 8 * 27 + 8 * 9 + 6 * 4 + 8 * 4 * 4 + 6 * 8
    products = 3 * 8 * 8 + 2 * 8 * n
    assert count_macs(Everything(), (batch, 3, height, width)) == batch * n * (convolutions + products + 8 * 5)


@pytest.mark.parametrize('x, y, transposed', [
    ((3, 200, 100), (3, 100, 150), {}), ((3, 100, 200), (3, 100, 150), {'transpose_x': True}),
    ((4, 1, 200, 100), (5, 150, 100), {'transpose_y': True}), ((200, 100), (2, 3, 100, 150), {}),
    ((2, 3, 100, 200), (150, 100), {'transpose_x': True, 'transpose_y': True}), ((10**6,), (10**6,), {}),
    ((3, 1000, 1000), (1000,), {})])
def test_big_products_have_their_shapes(x, y, transposed):
    x, y = paddle.ones(x), paddle.ones(y)
    counter = _Counter()
    with paddle.no_grad(), counter.watching():
        counted = paddle.matmul(x, y, **transposed)
    computed = paddle.matmul(x, y, **transposed)
    assert counted.shape == computed.shape and counted.dtype == computed.dtype
    assert counter.macs == computed.numel() * (x.shape[-2] if transposed.get('transpose_x') else x.shape[-1])


def test_what_is_left_out_keeps_its_shape():
    x = paddle.ones([2, 16, 200, 300])
    steps = [lambda x: F.interpolate(x, [211, 310], mode='bilinear'), lambda x: F.interpolate(x, scale_factor=2),
             lambda x: F.interpolate(x, [100, 120], mode='bicubic'), lambda x: x.transpose([0, 2, 3, 1]),
             lambda x: paddle.transpose(x, [3, 1, 0, 2]), F.gelu, F.relu, lambda x: F.softmax(x, axis=1),
             lambda x: x * 2 + x, lambda x: x[:, :1] + x, lambda x: x + paddle.ones([300]),
             lambda x: F.interpolate(x, [64, 50], data_format='NHWC')]
    counter = _Counter()
    with paddle.no_grad(), counter.watching():
        shapes = [step(x).shape for step in steps]
    assert shapes == [step(x).shape for step in steps] and counter.macs == 0


def test_bare_models_draw_nothing():
    from paddleseg_ext.engine.bare_models import bare_models
    initializers = [nn.initializer.Normal(), nn.initializer.TruncatedNormal(), nn.initializer.Uniform(),
                    nn.initializer.XavierNormal(), nn.initializer.KaimingUniform(), None]
    for bare in (True, False):
        with bare_models() if bare else contextlib.nullcontext():
            layers = [nn.Linear(20, 30, weight_attr=initializer) for initializer in initializers]
        assert [layer.weight.shape for layer in layers] == [[20, 30]] * len(layers)
        assert all((layer.weight.abs().sum().item() == 0) == bare for layer in layers)


def test_counts_channels_last():
    layer = nn.Conv2D(3, 8, 3, padding=1, data_format='NHWC')
    assert count_macs(layer, (1, 6, 7, 3)) == 6 * 7 * 8 * 27


def test_parameters_are_the_trainable_ones():
    linear, norm = 8 * 5 + 5, 2 * 8
    convolutions = (8 * 27 + 8) + (8 * 9 + 8) + (6 * 4 + 6) + (8 * 4 * 4 + 4)
    assert count_parameters(Everything()) == convolutions + norm + linear + 48


def test_counting_leaves_model_and_paddle_as_they_were():
    model = Everything()
    model.norm.eval()
    operators = [paddle._C_ops.conv2d, paddle.matmul, paddle.Tensor.matmul]
    state = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    count_macs(model, (1, 3, 8, 8))
    assert model.training and not model.norm.training
    assert [paddle._C_ops.conv2d, paddle.matmul, paddle.Tensor.matmul] == operators
    assert all((state[name] == value.numpy()).all() for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match='at least 32'):
        count_macs(RTFormer(num_classes=2, base_channels=8, head_channels=8), (1, 3, 16, 16))
    assert [paddle._C_ops.conv2d, paddle.matmul, paddle.Tensor.matmul] == operators


def attention_macs(c, height, width, cross_size=12):
    """External attention of both blocks (stride 32), and the two products of cross-resolution attention (stride 8)."""
    external = (8 * c * 4 * c + 3 * (8 * c)**2) * (height // 32) * (width // 32)
    return external + 2 * 2 * (height // 8) * (width // 8) * cross_size**2 * 2 * c


# The published figures are those of `paddle.flops`, which sees layers only: no attention (and a little for batch norm).
@pytest.mark.parametrize('c, injection, size, millions, giga', [
    (32, (True, True), (1024, 2048), 5.40, 36.3),
    (32, (True, False), (512, 1024), 5.03, 8.8),
    (64, (True, False), (1024, 2048), 17.92, 135.0),
])
def test_rtformer_costs_what_is_published(c, injection, size, millions, giga):
    model = RTFormer(num_classes=19, base_channels=c, head_channels=2 * c, use_injection=injection)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.005)
    without_attention = count_macs(model, (1, 3, *size)) - attention_macs(c, *size)
    assert without_attention / 1e9 == pytest.approx(giga, rel=0.01)


def test_every_leaf_has_its_row(rows):
    from paddleseg_ext.config import shipped_configs
    leaves = [stem for stem, path in shipped_configs().items() if path.parent.name[0] != '_' and stem[0] != '_']
    listed = [config for row in rows if row.kind == 'model' for config in row.configs]
    assert sorted(listed) == sorted(leaves) and leaves
    assert all(row.origin == 'paddleseg_ext' for row in rows)


def test_configurations_of_equal_cost_share_a_row(rows):
    costs = [(row.name, row.num_classes, row.parameters, row.macs) for row in rows]
    assert len(set(costs)) == len(costs)
    row = next(row for row in rows if 'rtformer_slim_cityscapes_1024x512_120k' in row.configs)
    assert row.num_classes == 19 and round(row.parameters / 1e6, 2) == 5.40 and row.input_size == SMALL


def test_paddleseg_models_are_counted_where_they_can_be_built():
    names = ['FastSCNN', 'DeepLabV3P', 'ResNet18_vd']
    found = {row.name: row for row in catalogue.list_models(names, input_size=SMALL)}
    assert found['FastSCNN'].num_classes == catalogue.DEFAULT_CLASSES and found['FastSCNN'].macs > 0
    assert found['DeepLabV3P'].parameters is None and found['DeepLabV3P'].macs is None
    assert found['ResNet18_vd'].kind == 'backbone' and found['ResNet18_vd'].num_classes is None
    assert {row.origin for row in found.values()} == {'PaddleSeg'}


def test_everything_lists_the_components_of_paddleseg_uncounted(monkeypatch):
    monkeypatch.setattr(catalogue, '_model_rows', lambda name, *_: [])
    monkeypatch.setattr(catalogue, '_backbone_row', lambda name, *_: catalogue.Row(
        name, 'backbone', catalogue.OURS, None, 1, 1, SMALL, ()))
    found = {row.name: row for row in catalogue.list_models(everything=True) if row.origin != catalogue.OURS}
    assert {'DeepLabV3P', 'PPLiteSeg', 'ResNet18_vd', 'HRNet_W18'} <= set(found) and 'RTFormer' not in found
    assert all(row.origin == 'PaddleSeg' and row.parameters is None and row.macs is None for row in found.values())


def test_what_does_not_run_at_a_size_is_left_blank():
    [row] = catalogue.list_models(['RTFormer'], input_size=(16, 16))[:1]
    assert row.macs is None and row.parameters > 0


def test_unknown_name():
    with pytest.raises(UserError, match='RTFormr is no registered model or backbone; did you mean RTFormer'):
        catalogue.list_models(['RTFormr'])
    with pytest.raises(UserError, match='models --all` lists every name'):
        catalogue.list_models(['qqqqqqqq'])


def test_size_below_one():
    with pytest.raises(UserError, match='--input_size 0 5: height and width must be at least 1'):
        catalogue.list_models(input_size=(0, 5))


def test_renderers_agree(rows):
    table, markdown, text = (catalogue.RENDERERS[name](rows) for name in ('table', 'markdown', 'json'))
    parsed = json.loads(text)
    assert [row['parameters'] for row in parsed] == [row.parameters for row in rows]
    assert len(markdown.splitlines()) == 2 + len(rows)
    assert f'GMACs at {SMALL[0]}×{SMALL[1]}' in table.splitlines()[0]
    for row in rows:
        for config in row.configs:
            assert config in table and f'`{config}`' in markdown
        assert f'{row.parameters / 1e6:.2f}' in table


def test_command_prints_json():
    done = run_cli('models', 'FastSCNN', '--input_size', 64, 96, '--format', 'json')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]['name'] == 'FastSCNN'


def test_command_names_the_mistake():
    done = run_cli('models', 'FastSCN')
    assert done.returncode == 1
    assert 'did you mean FastSCNN' in done.stderr and 'Traceback' not in done.stderr

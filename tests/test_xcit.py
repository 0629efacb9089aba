"""XCiT: its layers and pyramid beside NumPy, linearity, what it says of itself, exports, and its errors."""
from __future__ import annotations

import dataclasses
from math import prod

import numpy as np
import numpy_heads
import paddle
import pytest
import xcit_numpy
from cases import images, relative_difference, set_visible_weights
from numpy_heads import Weights
from paddle import nn

import paddleseg_ext
from paddleseg_ext.backbones.xcit import (
    OUT_INDICES,
    VARIANTS,
    LocalPatchInteraction,
    Variant,
    XCiT,
    XCiTClassifier,
)
from paddleseg_ext.engine.operation_count import count_macs
from paddleseg_ext.export.program import save_program
from paddleseg_ext.inference.paddle_runner import PaddleOptions, PaddleRunner
from paddleseg_ext.layers import fourier_positions
from paddleseg_ext.layers.class_attention import ClassAttentionBlock
from paddleseg_ext.layers.cross_covariance import CrossCovarianceAttention
from paddleseg_ext.layers.fourier_positions import FourierPositions
from paddleseg_ext.layers.frozen_norm import FrozenBatchNorm2D
from paddleseg_ext.layers.normalisation import BatchNorm2D
from paddleseg_ext.models.semantic_fpn import SemanticFPN
from paddleseg_ext.models.upernet import UPerNetMMSeg
from paddleseg_ext.registry import components

# Of the classifiers with 1000 classes: millions of parameters in the paper's table 1, for patches of 16.
PUBLISHED = {'N12': 3.1, 'T12': 6.7, 'T24': 12.1, 'S12': 26.3, 'S24': 47.7, 'M24': 84.4, 'L24': 189.1}
#                   channels depth heads scale tokens_norm patch
SMALL = {16: Variant(16,     6,    4,    1.,   True,       16),
         8: Variant(16,      6,    2,    1.,   True,       8)}
INDICES = (1, 2, 4, 5)
# The minimum, sides that are whole patches, and odd ones.
IMAGES = ((32, 32), (48, 64), (75, 61))
ODD = ((32, 32), (47, 33), (33, 129))

over_variants = pytest.mark.parametrize('name', VARIANTS)
over_patches = pytest.mark.parametrize('patch', SMALL)
over_images = pytest.mark.parametrize('size', IMAGES, ids=lambda size: f'{size[0]}x{size[1]}')


def small(patch: int = 16, **arguments) -> XCiT:
    return XCiT(SMALL[patch], **{'out_indices': INDICES, **arguments})


def visible(model):
    """The model in evaluation with weights that all show, and these by name."""
    paddle.seed(0)
    arrays = set_visible_weights(model)
    for name, value in arrays.items():
        if name.endswith('temperature'):
            arrays[name] = (2. + 3. * np.abs(value)).astype('float32')
    model.set_state_dict(arrays)
    model.eval()
    return model, arrays


@paddle.no_grad()
def run(model, x: np.ndarray):
    outputs = model(paddle.to_tensor(x))
    return [each.numpy() for each in outputs] if isinstance(outputs, list) else outputs.numpy()


# Layers beside NumPy

@pytest.mark.parametrize('heads', [1, 3])
@pytest.mark.parametrize('tokens', [1, 35])
def test_cross_covariance_attention(heads, tokens):
    layer, arrays = visible(CrossCovarianceAttention(12, heads))
    x = np.random.default_rng(2).normal(size=(2, tokens, 12)).astype('float32')
    expected = xcit_numpy.cross_covariance_attention(x.astype('float64'), Weights(arrays), heads)
    assert relative_difference(run(layer, x), expected) < 1e-5


def test_attention_of_channels_without_signal_has_finite_values_and_gradients():
    layer, _ = visible(CrossCovarianceAttention(8, 2))
    layer.qkv.bias.set_value(paddle.zeros([24]))
    x = paddle.zeros([1, 5, 8])
    x.stop_gradient = False
    layer(x).sum().backward()
    for value in (x, *layer.parameters()):
        assert np.isfinite(value.grad.numpy()).all()


def test_products_over_many_tokens_stay_within_half_precision(monkeypatch):
    """Processors have no matrix product in float16, so its range is held against what is multiplied in float32."""
    layer, _ = visible(CrossCovarianceAttention(8, 2))
    x = paddle.to_tensor(20. * np.random.default_rng(2).normal(size=(1, 4096, 8)).astype('float32'))
    query, key, _ = np.split(layer.qkv(x).numpy()[0], 3, axis=1)
    largest = np.finfo('float16').max
    assert np.abs(query.T @ key).max() > largest and (query**2).sum(axis=0).max() > largest
    products, original = [], paddle.matmul

    def matmul(*arguments, **named):
        products.append(original(*arguments, **named))
        return products[-1]

    monkeypatch.setattr(paddle, 'matmul', matmul)
    layer.attention(x)
    assert len(products) == 1 and np.abs(products[0].numpy()).max() < largest / 10


@pytest.mark.parametrize('size', [(1, 1), (5, 8)])
def test_local_patch_interaction(size):
    layer, arrays = visible(LocalPatchInteraction(6, BatchNorm2D))
    x = np.random.default_rng(2).normal(size=(2, *size, 6)).astype('float32')
    expected = xcit_numpy.local_patch_interaction(x.transpose(0, 3, 1, 2).astype('float64'), Weights(arrays))
    assert relative_difference(run(layer, x), expected.transpose(0, 2, 3, 1)) < 1e-5


@pytest.mark.parametrize('tokens_norm', [True, False])
def test_class_attention_block(tokens_norm):
    layer, arrays = visible(ClassAttentionBlock(12, 3, ratio=2, scale=1., tokens_norm=tokens_norm))
    x = np.random.default_rng(2).normal(size=(2, 8, 12)).astype('float32')
    expected = xcit_numpy.class_block(x.astype('float64'), Weights(arrays), 3, tokens_norm=tokens_norm)
    assert relative_difference(run(layer, x), expected) < 1e-5


# Positions

@pytest.mark.parametrize('size', [(1, 1), (7, 4), (3, 40)])
def test_fourier_positions(size):
    layer, arrays = visible(FourierPositions(6))
    with paddle.no_grad():
        ours = layer(size).numpy()
    assert relative_difference(ours, xcit_numpy.fourier_positions(size, Weights(arrays)).transpose(1, 2, 0)) < 1e-5


def test_positions_are_kept_between_forwards_and_not_between_types():
    fourier_positions._waves_on.cache_clear()
    layer = FourierPositions(6)
    single = layer((5, 9))
    layer((9, 5))
    assert fourier_positions._waves_on.cache_info().misses == 2
    layer.to(dtype='float64')
    assert layer((5, 9)).dtype == paddle.float64
    assert fourier_positions._waves_on.cache_info()[:2] == (4, 2)
    assert relative_difference(layer((5, 9)).numpy(), single.numpy()) < 1e-6
    assert fourier_positions._kept_waves(5, 32, 10000.).dtype == paddle.float32


# The pyramid and whole segmentors beside NumPy

@over_patches
@over_images
def test_maps_are_the_definitions(patch, size):
    model, arrays = visible(small(patch))
    maps = images(2, size)
    expected = xcit_numpy.backbone(maps, arrays, heads=SMALL[patch].heads, indices=INDICES)
    ours = run(model, maps)
    assert len(ours) == len(expected) == 4
    for value, wanted in zip(ours, expected):
        assert relative_difference(value, wanted) < 1e-5


@over_patches
@pytest.mark.parametrize('head', ['SemanticFPN', 'UPerNetMMSeg'])
@pytest.mark.parametrize('size', [(48, 64), (75, 61)])
def test_segmentors_are_the_definitions(patch, head, size):
    if head == 'SemanticFPN':
        model = SemanticFPN(5, small(patch), fpn_channels=7, head_channels=6)
    else:
        model = UPerNetMMSeg(5, small(patch), channels=7, aux_channels=6)
    model, arrays = visible(model)
    backbone = {name[len('backbone.'):]: value for name, value in arrays.items() if name.startswith('backbone.')}
    maps = xcit_numpy.backbone(images(2, size), backbone, heads=SMALL[patch].heads, indices=INDICES)
    if head == 'SemanticFPN':
        expected = numpy_heads.semantic_fpn(maps, arrays, (4, 8, 16, 32))
    else:
        expected = numpy_heads.upernet(maps, arrays, (1, 2, 3, 6))
    ours = model.backbone(paddle.to_tensor(images(2, size)))
    assert relative_difference(model.decode(ours).numpy(), expected) < 1e-5
    if head == 'UPerNetMMSeg':
        auxiliary = numpy_heads.fcn_head(maps[2], arrays, 'auxiliary_head')
        assert relative_difference(model.auxiliary_head(ours[2]).numpy(), auxiliary) < 1e-5
    [logits] = run(model, images(2, size))
    assert relative_difference(logits, numpy_heads.bilinear(expected, size)) < 1e-5


@over_patches
@pytest.mark.parametrize('tokens_norm', [True, False])
def test_classifiers_are_the_definitions(patch, tokens_norm):
    variant = dataclasses.replace(SMALL[patch], tokens_norm=tokens_norm)
    model, arrays = visible(XCiTClassifier(variant, num_classes=3))
    maps = images(2, (48, 61))
    expected = xcit_numpy.classifier(maps, arrays, heads=variant.heads, tokens_norm=tokens_norm)
    assert relative_difference(run(model, maps), expected) < 1e-5


# Linear in tokens

def shapes_of(model, size) -> list[list[int]]:
    """The shapes of what every layer takes and gives, and of what Paddle's operators multiply."""
    shapes = []

    def note(_, inputs, outputs):
        for each in (*inputs, outputs):
            shapes.extend(part.shape for part in (each if isinstance(each, (list, tuple)) else [each])
                          if isinstance(part, paddle.Tensor))

    hooks = [layer.register_forward_post_hook(note) for layer in model.sublayers()]
    original = paddle.matmul

    def matmul(*arguments, **named):
        output = original(*arguments, **named)
        shapes.extend(each.shape for each in (*arguments, output) if isinstance(each, paddle.Tensor))
        return output

    paddle.matmul = matmul
    try:
        with paddle.no_grad():
            model(paddle.zeros([1, 3, *size]))
    finally:
        paddle.matmul = original
        for hook in hooks:
            hook.remove()
    return shapes


@over_patches
def test_nothing_is_as_large_as_tokens_squared(patch):
    model = small(patch)
    model.eval()
    size = {16: (1024, 1024), 8: (384, 512)}[patch]
    tokens = prod(size) // patch**2
    hidden = 64 * tokens  # of the feed-forward layer
    largest = max(map(prod, shapes_of(model, size)))
    assert hidden <= largest < tokens**2 / 4
    # The finest map has 16 channels for each of its (H/4)·(W/4) cells, the images 3 for each pixel.
    assert largest <= max(hidden, 16 * prod(size) // 16, 3 * prod(size))


@over_patches
def test_work_and_memory_grow_as_the_pixels_do(patch):
    model = small(patch)
    sizes = ((256, 256), (512, 512), (1024, 1024))
    macs = [count_macs(model, (1, 3, *size)) for size in sizes]
    # What does not depend on the pixels is subtracted: the projections applied to the attention, and the positions.
    steps = (macs[1] - macs[0], macs[2] - macs[1])
    assert steps[1] == pytest.approx(4 * steps[0], rel=1e-3)
    assert macs[2] < 16.01 * macs[0]
    model.eval()
    values = [sum(map(prod, shapes_of(model, size))) for size in ((64, 64), (128, 128), (256, 256))]
    assert values[2] - values[1] == pytest.approx(4 * (values[1] - values[0]), rel=1e-2)


# What it says of itself

@over_patches
@over_images
def test_channels_and_strides_are_those_of_the_maps(patch, size):
    model = small(patch)
    maps = run(model, images(1, size))
    assert [feature.shape[1] for feature in maps] == model.feat_channels == [16] * 4
    assert model.feat_strides == [4, 8, 16, 32]
    for feature, stride in zip(maps, model.feat_strides):
        for side, length in zip(feature.shape[2:], size):
            assert side == -(-length // patch) * patch // stride


@over_variants
def test_variants_have_the_papers_size(name):
    variant = VARIANTS[name]
    with paddle.LazyGuard():  # names and shapes without values
        classifier = XCiTClassifier(variant, num_classes=1000)
    # NOTE: the running statistics of batch norm are parameters for Paddle, told apart by their names.
    millions = sum(prod(parameter.shape) for key, parameter in classifier.named_parameters()
                   if not key.endswith(('_mean', '_variance'))) / 1e6
    size, patch = name.split('_')[1:]
    # The embedding of patches of 8 lacks a convolution.
    assert PUBLISHED[size] - {'P16': 0.1, 'P8': 0.2}[patch] < millions < PUBLISHED[size] + 0.1
    assert variant.patch == int(patch[1:]) and len(classifier.backbone.patch_embed) == {16: 4, 8: 3}[variant.patch]


@over_variants
def test_a_variant_is_identified_by_names_and_shapes(name):
    with paddle.LazyGuard():
        model = components('backbone')[name]()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert XCiT.identify(shapes) == name
    assert XCiT.identify({key: shape for key, shape in shapes.items() if 'blocks.1.' not in key}) is None
    assert model.feat_channels == [VARIANTS[name].channels] * 4
    assert model.out_indices == OUT_INDICES[VARIANTS[name].depth] in ((3, 5, 7, 11), (7, 11, 15, 23))


def test_nothing_is_identified_where_no_variant_fits():
    assert XCiT.identify({}) is None
    assert XCiT.identify({key: tuple(value.shape) for key, value in small().state_dict().items()}) is None


def test_initial_values():
    paddle.seed(0)
    model = XCiT(dataclasses.replace(SMALL[16], scale=1e-5), drop_path_rate=0.3)
    block = model.blocks[5]
    assert {block.drop_path.rate for block in model.blocks} == {0.3}
    assert block.attn.qkv.weight.numpy().std() == pytest.approx(0.02, rel=0.15) and not block.attn.qkv.bias.any()
    for gamma in (block.gamma1, block.gamma2, block.gamma3):
        np.testing.assert_array_equal(gamma.numpy(), np.full(16, 1e-5, 'float32'))
    np.testing.assert_array_equal(block.attn.temperature.numpy(), np.ones([4, 1, 1], 'float32'))
    for convolution, inputs in ((block.local.conv1, 9), (model.position.proj, 64), (model.pyramid[0].up1, 16 * 4)):
        for parameter in (convolution.weight, convolution.bias):
            assert 0.6 * inputs**-0.5 < np.abs(parameter.numpy()).max() <= inputs**-0.5
    classifier = XCiTClassifier(SMALL[16], num_classes=2)
    assert 0 < np.abs(classifier.cls_token.numpy()).max() < 0.1 and not classifier.head.bias.any()


# Training

@over_patches
def test_every_parameter_gets_a_gradient(patch):
    model = small(patch, in_channels=4)
    visible(model)
    model.train()
    sum((feature**2).mean() for feature in model(paddle.to_tensor(images(1, (64, 48), channels=4)))).backward()
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            assert np.isfinite(parameter.grad.numpy()).all() and parameter.grad.numpy().any(), name


def test_blocks_behind_the_last_map_are_neither_run_nor_trained():
    model = small(out_indices=(0, 1, 2, 3))
    visible(model)
    before = run(model, images(1, (32, 32)))
    for parameter in model.blocks[4].parameters():
        parameter.set_value(parameter + 1.)
    for ours, wanted in zip(run(model, images(1, (32, 32))), before):
        np.testing.assert_array_equal(ours, wanted)
    frozen = {name.split('.')[1] for name, parameter in model.named_parameters()
              if name.startswith('blocks.') and name.endswith('gamma1') and parameter.stop_gradient}
    assert frozen == {'4', '5'}


@over_patches
def test_frozen_batch_norm_trains_but_keeps_its_statistics(patch):
    model, arrays = visible(small(patch, frozen_bn=True))
    usual, _ = visible(small(patch))
    maps = images(2, (48, 64))
    for ours, wanted in zip(run(model, maps), run(usual, maps)):
        np.testing.assert_allclose(ours, wanted, rtol=1e-6, atol=1e-6)
    evaluated = run(model, maps)
    model.train()
    optimizer = paddle.optimizer.SGD(0.01, parameters=model.parameters())
    outputs = model(paddle.to_tensor(maps))
    for ours, wanted in zip(outputs, evaluated):
        np.testing.assert_array_equal(ours.numpy(), wanted)
    sum((output**2).mean() for output in outputs).backward()
    optimizer.step()
    after = {name: value.numpy() for name, value in model.state_dict().items()}
    assert set(after) == set(usual.state_dict())
    changed = {name for name, value in after.items() if not np.array_equal(value, arrays[name])}
    assert not {name for name in changed if name.endswith(('_mean', '_variance'))}
    assert {name for name in after if '.bn.weight' in name or '.bn.bias' in name} <= changed
    usual.train()
    run(usual, maps)
    assert not np.array_equal(usual.state_dict()['patch_embed.0.bn._mean'].numpy(), arrays['patch_embed.0.bn._mean'])


def test_batch_norms_become_synchronous_and_frozen_ones_stay():
    norms = [layer for layer in small().sublayers() if isinstance(layer, BatchNorm2D)]
    assert len(norms) == 4 + 6 + 1
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(small())
    assert sum(isinstance(layer, nn.SyncBatchNorm) for layer in converted.sublayers()) == len(norms)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(small(frozen_bn=True))
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in converted.sublayers())
    assert sum(isinstance(layer, FrozenBatchNorm2D) for layer in converted.sublayers()) == len(norms)


# Exports

class Pooled(nn.Layer):
    """A backbone whose maps become one output."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return [paddle.concat([feature.flatten(2).mean(2) for feature in self.backbone(x)], axis=1)]


class Classified(nn.Layer):
    """A classifier that gives a list, as exports want."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, x):
        return [self.classifier(x)]


@pytest.fixture(scope='module', params=[16, 8, 'classifier'])
def exported(request, tmp_path_factory):
    """A model and the folder of its program for any batch and size."""
    if request.param == 'classifier':
        model = Classified(XCiTClassifier(dataclasses.replace(SMALL[16], depth=2), num_classes=3))
    else:
        model = Pooled(XCiT(dataclasses.replace(SMALL[request.param], depth=4)))
    visible(model)
    folder = tmp_path_factory.mktemp('exported')
    return model, save_program(model, folder / 'model', output_op='none', input_shape=[-1, 3, -1, -1])


@pytest.mark.parametrize('onednn', [True, False], ids=['oneDNN', 'plain'])
def test_exported_program_is_exact_at_every_batch_and_size(exported, onednn):
    model, program = exported
    runner = PaddleRunner(program, program.parent / 'model.pdiparams', PaddleOptions(cpu_threads=1, onednn=onednn))
    for size in (*ODD, (96, 64)):
        for batch in (1, 3):
            maps = images(batch, size)
            assert relative_difference(runner.run(maps), run(model, maps)[0]) < 1e-5, (size, batch)
    runner.close()


# Errors

def test_wrong_arguments():
    with pytest.raises(ValueError, match='in_channels must be a whole number of at least 1, but is 0'):
        small(in_channels=0)
    with pytest.raises(ValueError, match=r'drop path rate must lie in \[0, 1\), but is 1'):
        small(drop_path_rate=1.)
    for indices in ((3, 2, 1, 0), (0, 1, 2, 6), (0, 1, 2), (0, 1, 1, 2), (0, 1, 2, 2.5)):
        with pytest.raises(ValueError, match='out_indices must be 4 whole numbers that rise, from 0 to 5, but is '):
            small(out_indices=indices)
    with pytest.raises(ValueError, match=r'out_indices must be whole numbers that rise, .*, but is \[\]'):
        small(out_indices=(), pyramid=False)
    with pytest.raises(ValueError, match='patch must be one of 16, 8 pixels, but is 4'):
        dataclasses.replace(SMALL[16], patch=4)
    with pytest.raises(ValueError, match='channels must be a multiple of 8 and of the 3 heads, but is 16'):
        dataclasses.replace(SMALL[16], heads=3)
    with pytest.raises(ValueError, match=r'channels \(8\) must be a multiple of the number of heads \(3\)'):
        CrossCovarianceAttention(8, 3)


@pytest.mark.parametrize('size', [(31, 64), (64, 31)])
def test_small_images_are_refused_with_the_minimum(size):
    message = rf'XCiT needs images of at least 32×32 pixels, but got {size[0]}×{size[1]} \(height × width\)'
    for model in (small(), XCiTClassifier(SMALL[8], num_classes=2)):
        with pytest.raises(ValueError, match=message):
            model(paddle.to_tensor(images(1, size)))


def test_maps_of_the_tokens_alone():
    model = small(8, pyramid=False, out_indices=[1, 4])
    assert (model.feat_channels, model.feat_strides) == ([16, 16], [8, 8])
    assert [feature.shape for feature in run(model, images(1, (33, 64)))] == [(1, 16, 5, 8)] * 2


def test_create_classifier():
    with paddle.LazyGuard():
        model = paddleseg_ext.create_classifier('XCiT_S12_P16', num_classes=7, in_channels=4)
    assert model.head.weight.shape == [384, 7]
    assert model.backbone.patch_embed[0].conv.weight.shape == [48, 4, 3, 3]
    assert all(block.tokens_norm for block in model.class_blocks)
    with pytest.raises(ValueError, match='XCiT_S12_P4 is no classifier of paddleseg_ext; did you mean XCiT_S12_P'):
        paddleseg_ext.create_classifier('XCiT_S12_P4')
    with pytest.raises(TypeError, match="unexpected keyword argument 'lsa_padding'"):
        paddleseg_ext.create_classifier('XCiT_N12_P16', lsa_padding='zero')

"""The fourteen XCiT at full width beside timm, and segmentors beside ones that are built as the authors' are.

Classifiers are loaded from files as timm writes them. Names of sources that cannot be run here, the authors' and
PaddleViT's, are made by renaming the same weights; those tests say so.
"""
from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch
from cases import relative_difference
from safetensors.torch import save_file
from xcit_sources import TIMM_NAMES, images, source_weights

import paddleseg_ext
from paddleseg_ext.backbones.xcit import VARIANTS
from paddleseg_ext.checkpoints.pretrained import translation_of
from paddleseg_ext.checkpoints.reading import Weights
from paddleseg_ext.models.semantic_fpn import SemanticFPN
from paddleseg_ext.models.upernet import UPerNetMMSeg
from paddleseg_ext.registry import components
from parity import oracle, xcit_oracle

SIZES = ((224, 224), (113, 75))
CLASSES = 150
HEADS = ('SemanticFPN', 'UPerNetMMSeg')
# Of the published segmentors one of each depth, with both patches; their heads as in the authors' configurations.
SEGMENTORS = [name for name in TIMM_NAMES if name.split('_')[1] in ('T12', 'S24')]
# Names do not depend on the width.
NAMED = ('XCiT_N12_P16', 'XCiT_T24_P8')

over_variants = pytest.mark.parametrize('name', TIMM_NAMES)


@paddle.no_grad()
def run(model, maps: np.ndarray) -> np.ndarray:
    model.eval()
    outputs = model(paddle.to_tensor(maps))
    return (outputs[0] if isinstance(outputs, list) else outputs).numpy()


def filled(judge: torch.nn.Module) -> dict[str, torch.Tensor]:
    return oracle.fill(judge, source_weights(oracle.shapes(judge)))


def assert_equal_weights(ours: paddle.nn.Layer, others: paddle.nn.Layer) -> None:
    wanted, given = others.state_dict(), ours.state_dict()
    assert set(given) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_array_equal(given[key].numpy(), value.numpy(), err_msg=key)


@over_variants
def test_classifiers_of_timm(name, tmp_path, assert_close):
    judge = xcit_oracle.classifier(name)
    save_file(filled(judge), tmp_path / 'model.safetensors', metadata={'format': 'pt'})
    model = paddleseg_ext.create_classifier(name, pretrained=str(tmp_path / 'model.safetensors'))
    for size in SIZES:
        maps = images(size)[:1]
        assert_close(run(model, maps), xcit_oracle.logits(judge, maps)['main'], f'{size[0]}x{size[1]}')


@pytest.mark.parametrize('name', ['XCiT_N12_P16', 'XCiT_T12_P8'])
def test_gradients_are_those_of_timm(name, tmp_path):
    """Of all weights, by an objective that each of them moves; batch norms use their running statistics.

    Those of temperatures are small differences of large sums, so less is asked of gradients than of logits.
    """
    judge = xcit_oracle.classifier(name)
    torch.save(filled(judge), tmp_path / 'model.pth')
    (judge(torch.from_numpy(images((64, 75))))**2).sum().backward()
    gradients = {key: parameter.grad.numpy() for key, parameter in judge.named_parameters()}
    expected = translation_of(Weights(gradients, 'torch')).arrays
    model = paddleseg_ext.create_classifier(name, pretrained=str(tmp_path / 'model.pth'))
    model.eval()
    (model(paddle.to_tensor(images((64, 75))))**2).sum().backward()
    linear = {f'{key}.weight' for key, layer in model.named_sublayers() if isinstance(layer, paddle.nn.Linear)}
    trained = {key: parameter for key, parameter in model.named_parameters() if not parameter.stop_gradient}
    assert set(trained) == set(expected)
    for key, parameter in trained.items():
        ours, wanted = parameter.grad.numpy(), expected[key].T if key in linear else expected[key]
        if key.endswith('.attn.k.bias'):  # a softmax does not see it
            assert np.abs(ours).max() < 1e-4 and np.abs(wanted).max() < 1e-4
        else:
            assert relative_difference(ours, wanted) < 1e-4, key


@pytest.mark.parametrize('name', NAMED)
def test_classifiers_by_the_names_of_the_authors(name, tmp_path):
    """By name only: the same weights under the names of the authors' code, not the released files."""
    state = filled(xcit_oracle.classifier(name))
    torch.save(state, tmp_path / 'timm.pth')
    theirs = xcit_oracle.authors_names(state)
    torch.save({'model': theirs}, tmp_path / 'authors.pth')
    torch.save({key: value for key, value in theirs.items() if not key.startswith('head.')}, tmp_path / 'dino.pth')
    wanted = paddleseg_ext.create_classifier(name, pretrained=str(tmp_path / 'timm.pth'))
    assert_equal_weights(paddleseg_ext.create_classifier(name, pretrained=str(tmp_path / 'authors.pth')), wanted)
    given = components('backbone')[name](pretrained=str(tmp_path / 'dino.pth')).state_dict()
    for key, value in wanted.backbone.state_dict().items():
        np.testing.assert_array_equal(given[key].numpy(), value.numpy(), err_msg=key)


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentors_by_the_names_of_the_authors(name, head, tmp_path, assert_close):
    """Their parts are timm's, PyTorch's and mmsegmentation's; the names are those of the authors' files."""
    judge = xcit_oracle.Segmentor(name, head, num_classes=CLASSES)
    state = xcit_oracle.authors_names(filled(judge))
    torch.save({'meta': {'mmseg_version': '0.11.0', 'CLASSES': ('wall', 'sky')}, 'state_dict': state},
               tmp_path / 'segmentor.pth')
    width = VARIANTS[name].channels
    model_class, widths = {'SemanticFPN': (SemanticFPN, {'fpn_channels': width, 'head_channels': 128}),
                           'UPerNetMMSeg': (UPerNetMMSeg, {})}[head]
    model = model_class(CLASSES, components('backbone')[name](), pretrained=str(tmp_path / 'segmentor.pth'), **widths)
    for size in SIZES:
        maps = images(size)[:1]
        expected = xcit_oracle.logits(judge, maps)
        assert_close(run(model, maps), expected['main'], f'{size[0]}x{size[1]}')
        if 'auxiliary' in expected:
            with paddle.no_grad():
                ours = model.auxiliary_head(model.backbone(paddle.to_tensor(maps))[2]).numpy()
            assert_close(ours, expected['auxiliary'], f'{size[0]}x{size[1]} auxiliary')

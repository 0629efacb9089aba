"""The four ResNets and the convolutional stages of VT-ResNets at full width beside timm, and mmsegmentation's ResNet.

Weights are loaded through `pretrained` from files as the sources' own programs write them. Names of sources that cannot
be run here, torchvision's and PaddleClas's, are tested in `tests/test_resnet_checkpoints.py`.
"""
from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch
from cases import relative_difference
from resnet_sources import LOGITS, MAPS, TIMM_NAMES, images, source_weights
from safetensors.torch import save_file

import paddleseg_ext
from paddleseg_ext.backbones.resnet import VARIANTS
from paddleseg_ext.checkpoints.pretrained import translation_of
from paddleseg_ext.checkpoints.reading import Weights
from paddleseg_ext.engine.convert import convert
from paddleseg_ext.models.semantic_fpn import SemanticFPN
from paddleseg_ext.registry import components
from parity import oracle, resnet_oracle

SIZES = ((224, 224), (113, 75))
CLASSES = 150
# Small ones: the convolutional stages are what is compared.
TOKENS = {'tokens': 4, 'token_channels': 64}

over_variants = pytest.mark.parametrize('name', TIMM_NAMES)


def filled(judge: torch.nn.Module) -> dict[str, torch.Tensor]:
    return oracle.fill(judge, source_weights(oracle.shapes(judge)))


def run(model, maps: np.ndarray) -> list[np.ndarray]:
    model.eval()
    with paddle.no_grad():
        outputs = model(paddle.to_tensor(maps))
    return [value.numpy() for value in (outputs if isinstance(outputs, list) else [outputs])]


@over_variants
def test_resnets_of_timm(name, tmp_path, assert_close):
    judge = resnet_oracle.classifier(name)
    state = filled(judge)
    save_file(state, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
    torch.save(state, tmp_path / 'model.pth')
    whole = paddleseg_ext.create_classifier(name, pretrained=str(tmp_path / 'model.safetensors'))
    part = components('backbone')[name](pretrained=str(tmp_path / 'model.pth'))
    tokens = components('backbone')[f'VT_{name}'](pretrained=str(tmp_path / 'model.pth'), **TOKENS)
    for size in SIZES:
        maps = images(size)[:1]
        expected = resnet_oracle.outputs(judge, maps)
        for kind, ours in zip((LOGITS, *MAPS), [*run(whole, maps), *run(part, maps)]):
            assert_close(ours, expected[kind], f'{size[0]}x{size[1]} {kind}')
        for kind, ours in zip(MAPS[:3], run(tokens, maps)):
            assert_close(ours, expected[kind], f'{size[0]}x{size[1]} {kind} of VT-ResNet')


def test_gradients_are_those_of_timm(tmp_path):
    """Of all weights, by an objective that each of them moves; batch norms use their running statistics."""
    judge = resnet_oracle.classifier('ResNet18')
    torch.save(filled(judge), tmp_path / 'model.pth')
    (judge(torch.from_numpy(images((64, 75))))**2).sum().backward()
    expected = translation_of(Weights({key: parameter.grad.numpy() for key, parameter in judge.named_parameters()}
                                      | {'layer1.0.bn1.running_mean': np.zeros(1)}, 'torch')).arrays
    model = paddleseg_ext.create_classifier('ResNet18', pretrained=str(tmp_path / 'model.pth'))
    model.eval()
    (model(paddle.to_tensor(images((64, 75))))**2).sum().backward()
    for key, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            wanted = expected[key].T if key == 'head.weight' else expected[key]
            assert relative_difference(parameter.grad.numpy(), wanted) < 1e-4, key


@pytest.mark.parametrize('name', ['ResNet18', 'ResNet50'])
def test_segmentors_of_mmsegmentation(name, tmp_path, assert_close):
    channels = VARIANTS[name].channels
    judge = resnet_oracle.segmentor(int(name[6:]), channels, num_classes=CLASSES)
    torch.save({'meta': {'mmseg_version': '1.2.2'}, 'state_dict': filled(judge)}, tmp_path / 'segmentor.pth')
    torch.save({'state_dict': judge.backbone.state_dict()}, tmp_path / 'backbone.pth')
    model = SemanticFPN(CLASSES, components('backbone')[name](), pretrained=str(tmp_path / 'segmentor.pth'))
    alone = components('backbone')[name](pretrained=str(tmp_path / 'backbone.pth'))
    for size in SIZES:
        maps = images(size)[:1]
        assert_close(run(model, maps)[0], oracle.logits(judge, maps)['main'], f'{size[0]}x{size[1]}')
    for key, value in model.backbone.state_dict().items():
        np.testing.assert_array_equal(alone.state_dict()[key].numpy(), value.numpy(), err_msg=key)


def test_what_is_converted_is_taken_by_a_visual_transformer(tmp_path):
    judge = resnet_oracle.classifier('ResNet50')
    torch.save(filled(judge), tmp_path / 'resnet50.pth')
    report = convert(str(tmp_path / 'resnet50.pth'), str(tmp_path / 'ours.pdparams'))
    assert report.model == 'ResNet50, a classifier of 1000 classes' and report.used == report.total
    direct, through = (components('backbone')['VT_ResNet50'](pretrained=str(tmp_path / file), **TOKENS)
                       for file in ('resnet50.pth', 'ours.pdparams'))
    for key, value in direct.state_dict().items():
        if not key.startswith('transformers.'):
            np.testing.assert_array_equal(through.state_dict()[key].numpy(), value.numpy(), err_msg=key)

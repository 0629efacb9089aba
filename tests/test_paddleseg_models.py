"""PaddleSeg's own models, named in YAML, go through train, val and export."""
from __future__ import annotations

import json

import pytest

from paddleseg_ext.cli.main import main

# NOTE: PaddleSeg's own code draws these from Paddle and numpy.
pytestmark = [pytest.mark.filterwarnings(f'ignore:{text}') for text in (
    r'[\s\S]*is deprecated since 2.0.0', 'Conversion of an array with ndim > 0')]
CROSS_ENTROPY = 'CrossEntropyLoss'
SMALL = [32, 32, 32]

# Each row: the model as in YAML, and the losses of its outputs in training.
MODELS = {
    'PPLiteSeg': ({'type': 'PPLiteSeg', 'backbone': {'type': 'STDC1'}, 'cm_out_ch': 32, 'arm_out_chs': SMALL,
                   'seg_head_inter_chs': SMALL}, [CROSS_ENTROPY] * 3),
    'DDRNet_23': ({'type': 'DDRNet_23', 'enable_auxiliary_loss': True}, ['OhemCrossEntropyLoss'] * 2),
    'STDCSeg': ({'type': 'STDCSeg', 'backbone': {'type': 'STDC1'}}, [CROSS_ENTROPY] * 3 + ['DetailAggregateLoss']),
    'BiSeNetV2': ({'type': 'BiSeNetV2'}, [CROSS_ENTROPY] * 5),
    'SegFormer_B0': ({'type': 'SegFormer', 'embedding_dim': 64, 'backbone': {'type': 'MixVisionTransformer_B0'}},
                     [CROSS_ENTROPY]),
    'OCRNet_HRNetW18': ({'type': 'OCRNet', 'backbone': {'type': 'HRNet_W18'}, 'backbone_indices': [0],
                         'ocr_mid_channels': 64, 'ocr_key_channels': 32}, [CROSS_ENTROPY] * 2),
    'DeepLabV3P': ({'type': 'DeepLabV3P', 'backbone': {'type': 'ResNet18_vd', 'output_stride': 16}}, [CROSS_ENTROPY]),
    'UPerNet': ({'type': 'UPerNet', 'backbone': {'type': 'ResNet18_vd'}, 'backbone_indices': [0, 1, 2, 3],
                 'channels': 64, 'enable_auxiliary_loss': False}, [CROSS_ENTROPY]),
    'UNet': ({'type': 'UNet'}, ['DiceLoss']),
    'FastSCNN': ({'type': 'FastSCNN'}, [CROSS_ENTROPY] * 2),
}
# NOTE: comparing these exports with their models takes most of a minute each, so that is left to `make test-slow`.
HEAVY = ('OCRNet_HRNetW18', 'UPerNet', 'UNet')


@pytest.fixture
def model_yaml(tiny_tree, write_yaml):
    """Function that writes the tiny configuration with another model and its losses, and returns the path."""

    def write(model, losses):
        tree = {**tiny_tree, 'optimizer': {'type': 'SGD', 'momentum': 0.}, 'model': {**model, 'num_classes': 9},
                'loss': {'types': [{'type': loss} for loss in losses], 'coef': [1.0] * len(losses)}}
        return write_yaml(tree)

    return write


@pytest.mark.parametrize('name', MODELS)
def test_train_val_export(name, model_yaml, tmp_path, capsys):
    config = str(model_yaml(*MODELS[name]))
    weights = str(tmp_path / 'run' / 'iter_2')
    assert main(['train', '--config', config, '--iters', '2', '--save_interval', '2', '--log_iters', '1', '--seed', '1',
                 '--device', 'cpu', '--save_dir', str(tmp_path / 'run')]) == 0
    assert main(['val', '--config', config, '--model_path', weights, '--device', 'cpu', '--batch_size', '2',
                 '--save_dir', str(tmp_path / 'val')]) == 0
    metrics = json.loads((tmp_path / 'val' / 'metrics.json').read_text())
    assert '4 images' in capsys.readouterr().out
    assert 0 <= metrics['miou'] <= 1
    exported = tmp_path / 'exported'
    flags = ['--without_verify'] if name in HEAVY else []
    assert main(['export', '--config', config, '--model_path', weights, '--save_dir', str(exported), *flags]) == 0
    assert (exported / 'deploy.yaml').exists()


@pytest.mark.slow
@pytest.mark.parametrize('name', HEAVY)
def test_export_computes_the_same(name, model_yaml, tmp_path, capsys):
    config = str(model_yaml(*MODELS[name]))
    assert main(['export', '--config', config, '--save_dir', str(tmp_path / 'exported')]) == 0
    assert 'exported program against the model' in capsys.readouterr().out

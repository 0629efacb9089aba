"""Inference: reading export folders, runner options and their refusals, and masks equal to the model's."""
from __future__ import annotations

import logging
import shutil

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

from paddleseg_ext.data.image_io import preprocess
from paddleseg_ext.engine.forward import predict_labels
from paddleseg_ext.environment import onednn_inference_works
from paddleseg_ext.errors import UserError
from paddleseg_ext.export.paddle_export import export_model
from paddleseg_ext.inference.deploy import Deployment
from paddleseg_ext.inference.latency import Stopwatch
from paddleseg_ext.inference.paddle_runner import PaddleOptions, PaddleRunner, open_runner
from paddleseg_ext.inference.restore import restore_labels, restore_scores
from paddleseg_ext.inference.runner import Runner
from paddleseg_ext.inference.segmenter import Segmenter

ONEDNN = onednn_inference_works(paddle.__version__)
NORMALIZE = {'type': 'Normalize'}
PADDING = {'type': 'Padding', 'target_size': [96, 96]}
RESIZE = {'type': 'ResizeByShort', 'short_size': 40}


class Blobs(nn.Layer):
    """A small segmentor with context, so that resizing changes its output in more than the last bit."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 5, stride=2, padding=2)
        self.head = nn.Conv2D(8, 4, 3, padding=1)

    def forward(self, x):
        logits = self.head(nn.functional.gelu(self.stem(x)))
        return [nn.functional.interpolate(logits, paddle.shape(x)[2:], mode='bilinear')]


def export(model, folder, transforms, **arguments):
    tree = {'model': {'num_classes': 4}, 'val_dataset': {'transforms': transforms}}
    return export_model(model, folder, tree=tree, verification=False, **arguments).folder


@pytest.fixture(scope='module')
def model():
    paddle.seed(7)
    model = Blobs()
    model.eval()
    return model


@pytest.fixture(scope='module')
def folder(model, tmp_path_factory):
    return export(model, tmp_path_factory.mktemp('inference') / 'blobs', [NORMALIZE])


@pytest.fixture
def images():
    generator = np.random.default_rng(5)
    sizes = [(48, 60), (33, 57), (48, 60), (48, 60), (33, 57)]
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def expected_masks(model, deployment, images):
    compose = deployment.compose()
    masks = []
    for image in images:
        pixels, trans_info = preprocess(image, compose)
        masks.append(predict_labels(model, pixels[np.newaxis], trans_info)[0])
    return masks


@pytest.mark.parametrize('transforms, output_op', [
    ([NORMALIZE], 'argmax'),
    ([NORMALIZE, PADDING], 'argmax'),
    ([RESIZE, NORMALIZE], 'none'),
    ([RESIZE, NORMALIZE], 'softmax'),
    ([RESIZE, PADDING, NORMALIZE], 'none'),
])
def test_masks_equal_those_of_the_model(model, tmp_path, images, transforms, output_op):
    deployment = Deployment.read(export(model, tmp_path / 'out', transforms, output_op=output_op))
    # NOTE: without oneDNN both compute in the same order, so equal means equal, not nearly.
    segmenter = Segmenter(deployment, open_runner(deployment, PaddleOptions(onednn=False)), batch_size=2)
    expected = expected_masks(model, deployment, images)
    for image, mask, wanted in zip(images, segmenter.predict(images), expected):
        assert mask.dtype == np.int32 and mask.shape == image.shape[:2]
        assert len(np.unique(wanted)) > 1
        np.testing.assert_array_equal(mask, wanted)


def test_labels_scaled_back_warn_once(model, tmp_path, images, caplog):
    logging.getLogger('paddleseg_ext').propagate = True
    deployment = Deployment.read(export(model, tmp_path / 'out', [RESIZE, NORMALIZE]))
    with caplog.at_level(logging.WARNING, logger='paddleseg_ext'):
        masks = Segmenter(deployment, open_runner(deployment)).predict(images[:3])
    assert [mask.shape for mask in masks] == [image.shape[:2] for image in images[:3]]
    assert len([record for record in caplog.records if '--output_op none for equal masks' in record.message]) == 1
    agreement = np.mean([(mask == wanted).mean() for mask, wanted
                         in zip(masks, expected_masks(model, deployment, images))])
    assert agreement > 0.8


def test_fixed_shapes(model, tmp_path, images):
    deployment = Deployment.read(export(model, tmp_path / 'out', [NORMALIZE], input_shape=[2, 3, 48, 60]))
    segmenter = Segmenter(deployment, open_runner(deployment, PaddleOptions(onednn=False)), batch_size=7)
    chosen = [images[0], images[2], images[3]]  # one and a half batches
    for mask, wanted in zip(segmenter.predict(chosen), expected_masks(model, deployment, chosen)):
        np.testing.assert_array_equal(mask, wanted)
    with pytest.raises(UserError, match='after the transforms height is 33, and the program was exported for 48'):
        segmenter.predict(images[1:2])


def test_images_below_the_minimum_size_are_refused(folder, tmp_path):
    image = np.zeros((40, 31, 3), np.uint8)
    deployment = Deployment.read(folder)
    assert deployment.minimum_size == 0
    assert Segmenter(deployment, open_runner(deployment)).predict([image])[0].shape == (40, 31)
    deployment = Deployment.read(edited(folder, tmp_path, lambda section: section.update(minimum_size=32)))
    segmenter = Segmenter(deployment, open_runner(deployment))
    with pytest.raises(UserError, match=r'needs images of at least 32×32 pixels, but got 40×31 \(height × width\); '
                                        'pad or enlarge them'):
        segmenter.prepare(image)
    assert segmenter.predict([np.zeros((32, 32, 3), np.uint8)])[0].shape == (32, 32)


def test_minimum_size_is_that_after_the_transforms(model, tmp_path):
    folder = export(model, tmp_path / 'out', [NORMALIZE, PADDING])
    deployment = Deployment.read(edited(folder, tmp_path, lambda section: section.update(minimum_size=96)))
    mask = Segmenter(deployment, open_runner(deployment)).predict([np.zeros((20, 24, 3), np.uint8)])[0]
    assert mask.shape == (20, 24)


def test_runner_follows_the_protocol(folder):
    runner = open_runner(Deployment.read(folder), PaddleOptions(cpu_threads=1))
    assert isinstance(runner, Runner)
    onednn = 'on' if ONEDNN else 'off'
    assert runner.description == f'Paddle Inference {paddle.__version__}, cpu, 1 thread, oneDNN {onednn}, fp32'
    output = runner.run(np.zeros((1, 3, 40, 40), np.float64))  # other types are converted
    assert output.shape == (1, 40, 40)
    runner.close()
    runner.close()


@pytest.mark.skipif(not ONEDNN, reason='this Paddle has no usable oneDNN')
def test_bf16(folder, model):
    if not paddle.base.core.supports_bfloat16_fast_performance():
        with pytest.raises(UserError, match='this CPU has no bf16 instructions'):
            open_runner(Deployment.read(folder), PaddleOptions(precision='bf16'))
        return
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    runner = open_runner(Deployment.read(folder), PaddleOptions(precision='bf16'))
    expected = predict_labels(model, images, [])
    assert 'bf16' in runner.description and (runner.run(images) == expected).mean() > 0.95


@pytest.mark.parametrize('options, text', [
    ({'precision': 'fp16'}, '--precision fp16 on the CPU: Paddle Inference has no fp16 kernels there'),
    ({'precision': 'bf16', 'onednn': False}, '--precision bf16 on the CPU runs in oneDNN, which is off'),
    ({'precision': 'int8'}, '--precision int8: expected one of fp32, fp16, bf16'),
    ({'use_trt': True}, '--use_trt: TensorRT runs on a GPU'),
    ({'collect_shapes': True}, '--enable_auto_tune: TensorRT runs on a GPU'),
    ({'device': 'tpu'}, '--device tpu: expected cpu, gpu or gpu:<number>'),
    ({'device': 'cpu:1'}, '--device cpu:1: expected cpu'),
    ({'cpu_threads': 0}, '--cpu_threads 0: at least 1'),
])
def test_options_that_cannot_be_honoured(folder, options, text):
    with pytest.raises(UserError, match=text):
        open_runner(Deployment.read(folder), PaddleOptions(**options))


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason='this Paddle has GPU support')
@pytest.mark.parametrize('options', [{}, {'precision': 'fp16'}, {'use_trt': True}])
def test_gpu_without_gpu_support(folder, options):
    with pytest.raises(UserError, match=r'--device gpu: this Paddle \(.*\) has no GPU support'):
        open_runner(Deployment.read(folder), PaddleOptions(device='gpu', **options))


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason='this Paddle may have TensorRT')
def test_tensorrt_that_is_not_built_in(folder, monkeypatch):
    monkeypatch.setattr(paddle, 'is_compiled_with_cuda', lambda: True)
    monkeypatch.setattr(paddle.device.cuda, 'device_count', lambda: 1)
    with pytest.raises(UserError, match=r'--use_trt: this Paddle \(.*\) was built without TensorRT'):
        open_runner(Deployment.read(folder), PaddleOptions(device='gpu', use_trt=True))
    with pytest.raises(UserError, match='--enable_mkldnn True: oneDNN runs on the CPU only'):
        open_runner(Deployment.read(folder), PaddleOptions(device='gpu', onednn=True))
    with pytest.raises(UserError, match='--device gpu:3: this machine shows Paddle 1 GPUs'):
        open_runner(Deployment.read(folder), PaddleOptions(device='gpu:3'))


def test_onednn_stays_off_where_it_is_broken(folder, monkeypatch):
    monkeypatch.setattr(paddle, '__version__', '3.3.1')
    assert 'oneDNN off' in open_runner(Deployment.read(folder)).description
    with pytest.raises(UserError, match='oneDNN cannot be used with Paddle 3.3.1: it fails on every interpolate'):
        open_runner(Deployment.read(folder), PaddleOptions(onednn=True))


def edited(folder, tmp_path, change):
    """A copy of an export folder whose Deploy section went through `change`."""
    copy = tmp_path / 'copy'
    shutil.copytree(folder, copy)
    tree = yaml.safe_load((copy / 'deploy.yaml').read_text())
    change(tree['Deploy'])
    (copy / 'deploy.yaml').write_text(yaml.safe_dump(tree))
    return copy


@pytest.mark.parametrize('changes, text', [
    ({'model': 'gone.json'}, r'names gone.json as its model, and .*gone.json is not there'),
    ({'params': None}, 'Deploy lacks params'),
    ({'output_op': 'max'}, "output_op is 'max', expected one of argmax, softmax, none"),
    ({'input_shape': [1, 3]}, r'input_shape is \[1, 3\], expected four whole numbers'),
    ({'minimum_size': 'small'}, "minimum_size is 'small', expected a whole number of pixels"),
    ({'transforms': 'Normalize'}, 'Deploy.transforms must be a list'),
    ({'class_names': ['road']}, 'class_names has 1 entries for 4 classes'),
    ({'in_channels': None, 'input_shape': [-1, -1, -1, -1]}, 'in_channels is missing'),
])
def test_deploy_yaml_that_does_not_fit(folder, tmp_path, changes, text):
    copy = edited(folder, tmp_path, lambda section: section.update(changes))
    with pytest.raises(UserError, match=text):
        Deployment.read(copy / 'deploy.yaml')


@pytest.mark.parametrize('transforms, text', [
    ([{'type': 'Nornalize'}], 'names no registered transform'),
    (['Normalize'], 'names no registered transform'),
    ([{'type': 'Normalize', 'means': 3}], 'Normalize does not take'),
])
def test_transforms_that_do_not_build(folder, tmp_path, transforms, text):
    copy = edited(folder, tmp_path, lambda section: section.update(transforms=transforms))
    with pytest.raises(UserError, match=text):
        Deployment.read(copy).compose()


def test_damaged_weights_are_found(folder, tmp_path):
    copy = edited(folder, tmp_path, lambda section: None)
    weights = bytearray((copy / 'model.pdiparams').read_bytes())
    weights[-1] ^= 1
    (copy / 'model.pdiparams').write_bytes(weights)
    with pytest.raises(UserError, match='is not the file that was exported'):
        Deployment.read(copy)


def test_program_that_does_not_load(tmp_path):
    (tmp_path / 'model.json').write_text('{}')
    (tmp_path / 'model.pdiparams').write_bytes(b'')
    text = 'Paddle Inference cannot load it' if paddle.__version__ >= '3' else 'is a program of Paddle 3, and this is'
    with pytest.raises(UserError, match=text):
        PaddleRunner(tmp_path / 'model.json', tmp_path / 'model.pdiparams')


def test_other_yaml_files(tmp_path):
    with pytest.raises(UserError, match='there is no such file. --config takes the deploy.yaml'):
        Deployment.read(tmp_path / 'deploy.yaml')
    (tmp_path / 'train.yml').write_text('iters: 4\n')
    with pytest.raises(UserError, match='has no Deploy section'):
        Deployment.read(tmp_path / 'train.yml')
    (tmp_path / 'broken.yml').write_text('Deploy: [')
    with pytest.raises(UserError, match='cannot be read as YAML'):
        Deployment.read(tmp_path / 'broken.yml')


def test_batch_size_zero(folder):
    deployment = Deployment.read(folder)
    with pytest.raises(UserError, match='--batch_size 0: at least 1'):
        Segmenter(deployment, open_runner(deployment), batch_size=0)


def test_restoring_labels():
    labels = np.arange(24, dtype=np.int32).reshape(1, 4, 6)
    np.testing.assert_array_equal(restore_labels(labels, [('padding', (3, 2))]), labels[:, :3, :2])
    doubled = restore_labels(labels, [('resize', (8, 12))])
    np.testing.assert_array_equal(doubled, labels.repeat(2, axis=1).repeat(2, axis=2))
    both = restore_labels(labels, [('resize', (6, 4)), ('padding', (3, 2))])
    np.testing.assert_array_equal(both, labels[:, :3, :2].repeat(2, axis=1).repeat(2, axis=2))
    assert restore_scores(np.eye(4, dtype=np.float32).reshape(1, 4, 2, 2), [('resize', (4, 4))]).shape == (1, 4, 4)
    with pytest.raises(ValueError, match="trans_info holds 'flip'"):
        restore_labels(labels, [('flip', (1, 1))])


@pytest.mark.parametrize('size', [(7, 9), (13, 5), (4, 6)])
def test_nearest_is_paddles(size):
    labels = np.arange(24, dtype=np.int32).reshape(1, 4, 6)
    expected = nn.functional.interpolate(paddle.to_tensor(labels[:, None].astype(np.float32)), list(size))
    np.testing.assert_array_equal(restore_labels(labels, [('resize', size)]), expected.numpy()[:, 0])


def test_stopwatch():
    stopwatch = Stopwatch()
    assert stopwatch.table() == ''
    for _ in range(4):
        with stopwatch.time('run', items=2):
            pass
    with pytest.raises(KeyError), stopwatch.time('post'):
        raise KeyError
    figures = stopwatch.summary()
    assert list(figures) == ['run'] and (figures['run']['calls'], figures['run']['images']) == (4, 8)
    assert figures['run']['p50_ms'] <= figures['run']['p99_ms']
    assert 'images/s' in stopwatch.table()

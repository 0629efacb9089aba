"""Logits and ids against PaddleSeg's own `core/infer.py`, and the memory that sliding windows take."""
from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import paddle
import pytest
from paddleseg.core import infer
from tiny_segmentation import TinyModel

from paddleseg_ext.engine import forward
from paddleseg_ext.engine.forward import TestOptions, predict_labels, predict_logits, restore
from paddleseg_ext.errors import UserError

SLIDE = {'is_slide': True, 'crop_size': (24, 20), 'stride': (15, 11)}
AUGMENT = {'aug_eval': True, 'scales': (0.75, 1.0, 1.5), 'flip_horizontal': True, 'flip_vertical': True}


@pytest.fixture(scope='module')
def model():
    layer = TinyModel()
    layer.eval()
    return layer


def random_images(height, width, *, batch=1, channels=3):
    generator = np.random.default_rng(11)
    return paddle.to_tensor(generator.normal(size=(batch, channels, height, width)).astype('float32'))


def theirs(model, images, trans_info, options):
    slide = {'is_slide': options.is_slide, 'crop_size': options.crop_size, 'stride': options.stride}
    with paddle.no_grad():
        if options.aug_eval:
            ids, logits = infer.aug_inference(
                model, images, trans_info, scales=list(options.scales), flip_horizontal=options.flip_horizontal,
                flip_vertical=options.flip_vertical, **slide)
        else:
            ids, logits = infer.inference(model, images, trans_info, **slide)
    return ids.numpy()[:, 0], logits.numpy()


@pytest.mark.parametrize('size', [(48, 64), (37, 53), (16, 70), (20, 24)])
@pytest.mark.parametrize('settings', [{}, SLIDE, AUGMENT, {**SLIDE, **AUGMENT}, {**SLIDE, 'window_batch': 3}],
                         ids=['whole', 'slide', 'augmented', 'slide+augmented', 'slide batched'])
@pytest.mark.parametrize('trans_info', [[], [('resize', (61, 45))], [('resize', (61, 45)), ('padding', (15, 40))]],
                         ids=['plain', 'resized', 'resized+padded'])
def test_equals_paddleseg(model, size, settings, trans_info):
    options = TestOptions(**settings)
    images = random_images(*size)
    ids, logits = theirs(model, images, trans_info, options)
    ours = restore(predict_logits(model, images, options), trans_info)
    np.testing.assert_allclose(ours.numpy(), logits, rtol=1e-5, atol=1e-5)
    labels = predict_labels(model, images, trans_info, options)
    assert labels.dtype == np.int32 and labels.shape == ids.shape
    assert (labels == ids).mean() >= 0.999


def test_padding_below_the_image_is_cut_from_streamed_windows(model):
    images = random_images(48, 64)
    options = TestOptions(**SLIDE)
    for height, width in ((48, 64), (40, 50), (9, 64)):
        labels = predict_labels(model, images, [('padding', (height, width))], options)
        assert (labels == predict_labels(model, images, [], options)[:, :height, :width]).all()


@pytest.mark.parametrize('settings', [{}, SLIDE, AUGMENT], ids=['whole', 'slide', 'augmented'])
def test_a_batch_equals_its_images(model, settings):
    options = TestOptions(**settings)
    images = random_images(37, 53, batch=3)
    together = predict_logits(model, images, options).numpy()
    alone = np.concatenate([predict_logits(model, images[i:i + 1], options).numpy() for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('trans_info', [[('resize', (301, 203))], [('resize', (301, 203)), ('padding', (30, 41))],
                                        [('padding', (30, 41))], []])
def test_stripes_equal_the_whole(model, monkeypatch, trans_info):
    images = random_images(37, 53, batch=2)
    whole = restore(predict_logits(model, images), trans_info).numpy()
    monkeypatch.setattr(forward, 'STRIPE_ELEMENTS', 4096)
    stripes = list(forward.predict_rows(model, images, trans_info))
    assert len(stripes) > 1 and sum(rows.shape[2] for rows in stripes) == whole.shape[2]
    np.testing.assert_allclose(np.concatenate([rows.numpy() for rows in stripes], axis=2), whole, rtol=1e-5, atol=1e-5)


class Local:
    """A model of one pixel at a time: many classes, nothing learnt; what it returns is all it needs."""

    def __init__(self, classes):
        self.factors = paddle.linspace(-1, 1, classes).reshape([1, classes, 1, 1])
        self.largest = 0

    def __call__(self, images):
        self.largest = max(self.largest, images.shape[2] * images.shape[3])
        return [paddle.sin(images[:, :1] * self.factors * 7)]


def test_windows_bound_the_memory():
    classes, height, width = 16, 1024, 256
    images = random_images(height, width)
    model = Local(classes)
    options = TestOptions(is_slide=True, crop_size=(128, 64), stride=(64, 32))
    tracemalloc.start()
    labels = predict_labels(model, images, [], options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    full = classes * height * width * 4
    assert model.largest == 128 * 64
    assert peak < full / 2, f'{peak / 2**20:.1f} MiB for logits of {full / 2**20:.1f} MiB'
    assert (labels == predict_labels(model, images, [])).all()


def test_options_are_refused_by_rule():
    for settings, text in [
        ({'is_slide': True}, r'is_slide needs crop_size, which is not given.*--crop_size 512 512 --stride 384 384'),
        ({'is_slide': True, 'crop_size': (8, 8)}, 'is_slide needs stride'),
        ({'is_slide': True, 'crop_size': (8, 8), 'stride': (8, 9)},
         r'stride \[8, 9\] is larger than crop_size \[8, 8\]'),
        ({'crop_size': 512}, 'crop_size is 512; it must be two integers above 0: width and height'),
        ({'stride': (0, 4)}, r'stride is \(0, 4\)'),
        ({'scales': ()}, r'scales is \(\)'),
        ({'scales': (1, -1)}, 'factors above 0'),
        ({'scales': True}, 'scales is True'),
        ({'aug_eval': 'yes'}, "aug_eval is 'yes'; it must be true or false"),
        ({'precision': 'fp64'}, "precision is 'fp64'; it must be one of fp32, fp16, bf16"),
        ({'window_batch': 0}, 'window_batch is 0'),
    ]:
        with pytest.raises(UserError, match=text):
            TestOptions(**settings)


def test_options_from_a_config():
    section = {'aug_eval': True, 'scales': 2, 'is_slide': True, 'crop_size': [8, 6], 'stride': [4, 3]}
    options = TestOptions.from_config(section, scales=None, flip_horizontal=True)
    assert options.scales == (2.0,) and options.crop_size == (8, 6) and options.flip_horizontal
    assert TestOptions(**options.as_dict()) == options
    assert TestOptions.from_config(None) == TestOptions()
    with pytest.raises(UserError, match='test_config has unknown keys crop; it takes aug_eval, crop_size'):
        TestOptions.from_config({'crop': 3})
    with pytest.raises(TypeError, match='TestOptions has no scale'):
        TestOptions.from_config({}, scale=1)


def test_wrong_outputs_notes_and_precision(model):
    images = random_images(16, 16)
    with pytest.raises(TypeError, match='the model returned Tensor; a segmentation model returns a list of logits'):
        predict_logits(lambda x: x, images)
    with pytest.raises(UserError, match="the transforms noted 'rotate' in trans_info"):
        restore(images, [('rotate', (1, 1))])
    with pytest.raises(UserError, match='scale 0.01 leaves nothing of an image side of 16 pixels'):
        predict_logits(model, images, TestOptions(aug_eval=True, scales=(0.01,)))
    if paddle.get_device() == 'cpu':
        with pytest.raises(UserError, match='precision bf16 needs a GPU.*Use fp32'):
            predict_logits(model, images, TestOptions(precision='bf16'))


def test_any_callable_and_channels_last(model):
    images = random_images(20, 30)
    expected = predict_logits(model, images).numpy()
    assert (predict_logits(lambda x: [model(x)[0].numpy()], images.numpy()).numpy() == expected).all()

    class ChannelsLast:
        data_format = 'NHWC'

        def __call__(self, x):
            return [model(x.transpose([0, 3, 1, 2]))[0].transpose([0, 2, 3, 1])]
    for settings in ({}, {'is_slide': True, 'crop_size': (30, 20), 'stride': (30, 20)}):
        assert (predict_logits(ChannelsLast(), images, TestOptions(**settings)).numpy() == expected).all()


def test_no_gradients_are_recorded(model):
    for settings in ({}, AUGMENT):
        assert predict_logits(model, random_images(16, 16), TestOptions(**settings)).stop_gradient


def test_flip_passes():
    for horizontal, vertical in itertools.product((False, True), repeat=2):
        axes = forward._flip_axes(TestOptions(flip_horizontal=horizontal, flip_vertical=vertical))
        expected = infer.flip_combination(horizontal, vertical)
        assert [(3 in step, 2 in step) for step in axes] == expected

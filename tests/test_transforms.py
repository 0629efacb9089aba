"""Our augmentations against their definition, worked out again in plain NumPy: draw by draw, and over many draws."""
from __future__ import annotations

import colorsys
import random

import numpy as np
import pytest

import paddleseg_ext.components  # noqa: F401  NOTE: imported for its effect, it registers our transforms
from paddleseg_ext.config import load_config, make_builder
from paddleseg_ext.data.transforms import PhotometricDistortion, RandomClassBalancedCrop, RandomRescale
from paddleseg_ext.engine.sampling import SeededDataset
from paddleseg_ext.errors import UserError
from paddleseg_ext.registry import components


def sample(height, width, *, channels=3, classes=4):
    """An image of noise, with a label of noise and a second map that equals it plus 100."""
    generator = np.random.default_rng(height * width)
    label = generator.integers(0, classes, (height, width)).astype('uint8')
    image = generator.integers(0, 256, (height, width, channels)).astype('float32')
    return {'img': image, 'label': label, 'other': label + 100, 'gt_fields': ['label', 'other']}


def test_registered():
    ours = {'PhotometricDistortion', 'RandomClassBalancedCrop', 'RandomRescale'}
    assert ours <= set(components('transform'))


# --- RandomRescale --------------------------------------------------------------------------------------------------

def rescaled_size(width, height, factor, bounds):
    """The largest size of this ratio within the scaled bounds, sides rounded half up."""
    long, short = (int(bound * factor) for bound in bounds)
    by_long, by_short = long / max(width, height), short / min(width, height)
    scale = by_long if by_long < by_short else by_short
    return int(np.floor(width * scale + 0.5)), int(np.floor(height * scale + 0.5))


@pytest.mark.parametrize('height, width', [(30, 40), (40, 30), (50, 50), (10, 97), (97, 10), (33, 51)])
def test_rescale_sizes_follow_the_drawn_factor(height, width):
    transform = RandomRescale(size=[256, 64], min_factor=0.5, max_factor=2.0)
    for seed in range(40):
        np.random.seed(seed)
        data = transform(sample(height, width))
        np.random.seed(seed)
        expected = rescaled_size(width, height, np.random.uniform(0.5, 2.0), (256, 64))
        assert data['img'].shape == (expected[1], expected[0], 3)
        assert data['label'].shape == data['other'].shape == (expected[1], expected[0])


def test_rescale_draws_the_factor_uniformly():
    transform = RandomRescale(size=(2048, 512))
    np.random.seed(0)
    short = np.array([transform({'img': np.zeros((8, 11, 1), 'uint8')})['img'].shape[0] for _ in range(600)])
    factors = short / 512
    assert 0.5 <= factors.min() < 0.52 and 1.98 < factors.max() <= 2.0
    shares = np.histogram(factors, bins=6, range=(0.5, 2.0))[0] / len(factors)
    assert np.abs(shares - 1 / 6).max() < 0.05


@pytest.mark.parametrize('height, width, factor, expected', [
    (100, 200, 1.0, (512, 1024)), (200, 100, 1.0, (1024, 512)), (100, 500, 1.0, (410, 2048)),
    (681, 512, 0.5, (341, 256)), (512, 512, 2.0, (1024, 1024)), (1, 4000, 0.5, (1, 1024))])
def test_rescale_of_known_sizes(height, width, factor, expected):
    transform = RandomRescale(size=(512, 2048), min_factor=factor, max_factor=factor)
    assert transform({'img': np.zeros((height, width, 1), 'uint8')})['img'].shape[:2] == expected


def test_rescale_takes_labels_from_the_nearest_pixel_and_interpolates_images():
    data = RandomRescale(size=(6, 6), min_factor=1, max_factor=1)(
        {'img': np.array([[0, 90], [0, 90]], 'float32'), 'label': np.array([[0, 7], [255, 7]], 'uint8'),
         'gt_fields': ['label']})
    assert data['label'].tolist() == [[0] * 3 + [7] * 3] * 3 + [[255] * 3 + [7] * 3] * 3
    np.testing.assert_allclose(data['img'][0], [0, 0, 30, 60, 90, 90], atol=1e-4)


@pytest.mark.parametrize('channels', [1, 2, 5])
def test_rescale_and_crop_take_any_number_of_channels(channels):
    np.random.seed(0)
    data = RandomRescale(size=(64, 32))(sample(20, 30, channels=channels))
    data = RandomClassBalancedCrop(crop_size=(16, 8))(data)
    assert data['img'].shape == ((8, 16) if channels == 1 else (8, 16, channels))


# --- RandomClassBalancedCrop ----------------------------------------------------------------------------------------

def dominant_share(label, ignored=(255,)):
    """The share of the most frequent class among the pixels of any class; 1 where there is one class, or none."""
    counts = [np.sum(label == value) for value in set(label.ravel().tolist()) - set(ignored)]
    return max(counts) / sum(counts) if len(counts) > 1 else 1.0


def striped(height=60, width=200, *, edge=150):
    """Two classes, the right one beyond the column `edge`, and an image that tells every pixel's place."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, rows + columns], axis=-1).astype('float32')
    label = (columns >= edge).astype('uint8')
    return {'img': image, 'label': label, 'other': label + 100, 'gt_fields': ['label', 'other']}


def test_crop_takes_everything_from_one_place():
    np.random.seed(1)
    crop = RandomClassBalancedCrop(crop_size=(30, 20))
    places = []
    for _ in range(300):
        whole, data = striped(), crop(striped())
        top, left = (int(value) for value in data['img'][0, 0, :2])
        rows, columns = slice(top, top + 20), slice(left, left + 30)
        for key in ('img', 'label', 'other'):
            np.testing.assert_array_equal(data[key], whole[key][rows, columns])
        places.append((top, left))
    tops = np.array(places)[:, 0]
    assert tops.min() == 0 and tops.max() == 40 and abs(tops.mean() - 20) < 2


def test_crop_without_balancing_is_uniform():
    np.random.seed(2)
    crop = RandomClassBalancedCrop(crop_size=(30, 20), max_class_ratio=1.0)
    lefts = np.array([crop(striped())['img'][0, 0, 1] for _ in range(800)])
    assert lefts.min() == 0 and lefts.max() == 170
    assert np.abs(np.histogram(lefts, bins=5, range=(0, 171))[0] / 800 - 0.2).max() < 0.05


@pytest.mark.parametrize('tries', [1, 3, 10])
def test_crop_balances_as_often_as_its_tries_make_likely(tries):
    # A place is balanced where 8 to 22 of its 30 columns are of the right class: 15 of 171 places.
    balanced_place = 15 / 171
    np.random.seed(3)
    crop = RandomClassBalancedCrop(crop_size=(30, 20), tries=tries)
    draws = 1500
    share = np.mean([dominant_share(crop(striped())['label']) < 0.75 for _ in range(draws)])
    # The first place and `tries` more are drawn, the last of them unseen.
    expected = 1 - (1 - balanced_place) ** (tries + 1)
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / draws)


def test_crop_stops_at_the_first_balanced_place():
    label = np.arange(64).reshape(8, 8).astype('uint8')
    state = np.random.RandomState(5)
    np.random.seed(5)
    data = RandomClassBalancedCrop(crop_size=(4, 4))({'img': label[..., None], 'label': label, 'gt_fields': ['label']})
    top, left = state.randint(0, 5), state.randint(0, 5)
    np.testing.assert_array_equal(data['label'], label[top:top + 4, left:left + 4])
    assert np.random.randint(1000) == state.randint(1000)


@pytest.mark.parametrize('label, ignored, balanced', [
    ([0, 0, 0, 1], 255, False),                    # exactly three quarters are not below them
    ([0, 0, 1, 1], 255, True),
    ([0, 0, 255, 255, 255, 255, 1, 2], 255, True),  # ignored pixels count on neither side
    ([3, 3, 255, 255], 255, False),                # a single class
    ([255, 255, 255, 255], 255, False),            # none
    ([0, 0, 0, 0, 1, 2, 255, 255], [0, 255], True),
    ([0, 0, 0, 0, 1, 2, 255, 255], 255, True),
    ([0, 0, 0, 0, 0, 1, 2, 255], [255], True),
    ([0, 0, 0, 0, 0, 0, 1, 2], [255], False),
    ([0, 1, 1, 1, 1, 1, 1, 1], [0], False),
])
def test_what_counts_as_balanced(label, ignored, balanced):
    crop = RandomClassBalancedCrop(crop_size=(1, 1), ignore_index=ignored)
    label = np.array([label], 'uint8')
    ignored = ignored if isinstance(ignored, list) else [ignored]
    assert crop._balanced(label) == balanced
    assert (dominant_share(label, ignored) < 0.75) == balanced


def test_crop_keeps_what_a_smaller_image_has():
    np.random.seed(0)
    crop = RandomClassBalancedCrop(crop_size=(30, 20))
    assert crop(sample(10, 12))['img'].shape == (10, 12, 3)
    assert crop(sample(50, 12))['label'].shape == (20, 12)
    assert crop(sample(10, 90))['other'].shape == (10, 30)
    assert crop({'img': np.zeros((40, 50, 3), 'uint8')})['img'].shape == (20, 30, 3)


# --- PhotometricDistortion ------------------------------------------------------------------------------------------

def truncated(values):
    return np.floor(np.clip(values, 0, 255))


def rgb_to_hsv(image):
    """OpenCV's bytes: half degrees, and saturation and value of 255; worked out pixel by pixel in fractions."""
    hsv = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3) / 255]).reshape(image.shape)
    return np.stack([np.rint(hsv[..., 0] * 180) % 180, np.rint(hsv[..., 1] * 255), np.rint(hsv[..., 2] * 255)], axis=-1)


def hsv_to_rgb(image):
    parts = image.reshape(-1, 3) / (180, 255, 255)
    return np.rint(np.array([colorsys.hsv_to_rgb(*pixel) for pixel in parts]).reshape(image.shape) * 255)


def distorted(image, *, delta=32, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=18):
    """The definition: brightness; contrast now or last; saturation; hue; each by the toss of a coin."""
    def toss():
        return np.random.randint(2) == 1

    if toss():
        image = truncated(image + np.random.uniform(-delta, delta))
    early = toss()
    if early and toss():
        image = truncated(image * np.random.uniform(*contrast))
    if toss():
        hsv = rgb_to_hsv(image)
        hsv[..., 1] = truncated(hsv[..., 1] * np.random.uniform(*saturation))
        image = hsv_to_rgb(hsv)
    if toss():
        hsv = rgb_to_hsv(image)
        hsv[..., 0] = (hsv[..., 0] + np.random.randint(-hue, hue)) % 180
        image = hsv_to_rgb(hsv)
    if not early and toss():
        image = truncated(image * np.random.uniform(*contrast))
    return image


def test_photometric_is_the_definition_draw_by_draw():
    transform = PhotometricDistortion()
    image = sample(12, 14)['img']
    changed = 0
    for seed in range(80):
        np.random.seed(seed)
        got = transform({'img': image.copy()})['img']
        np.random.seed(seed)
        expected = distorted(image)
        # OpenCV rounds its conversions in fixed point, which may put a byte one off before a factor of up to 1.5, and
        # a half degree of hue is worth up to 255 / 30 levels.
        assert np.abs(got - expected).max() <= 14
        assert np.abs(got - expected).mean() < 0.7
        changed += bool(np.abs(got - image).max() > 0)
    assert 70 < changed < 80


def test_brightness_and_contrast_exactly():
    # Grey stays grey under saturation and hue, so that only these two are left.
    transform = PhotometricDistortion()
    grey = np.repeat(np.arange(256, dtype='uint8')[None, :, None], 3, axis=2)
    for seed in range(60):
        np.random.seed(seed)
        got = transform({'img': grey.copy()})['img']
        np.random.seed(seed)
        np.testing.assert_array_equal(got, distorted(grey))


def test_each_change_happens_half_the_time():
    changes = {'brightness_delta': {'contrast_range': (1, 1), 'saturation_range': (1, 1), 'hue_delta': 0},
               'contrast_range': {'brightness_delta': 0, 'saturation_range': (1, 1), 'hue_delta': 0},
               'saturation_range': {'brightness_delta': 0, 'contrast_range': (1, 1), 'hue_delta': 0},
               'hue_delta': {'brightness_delta': 0, 'contrast_range': (1, 1), 'saturation_range': (1, 1)}}
    red = np.full((1, 1, 3), (160, 80, 80), 'uint8')  # survives the conversion to HSV and back unchanged
    for name, others in changes.items():
        transform = PhotometricDistortion(**others)
        np.random.seed(7)
        moved = np.mean([(transform({'img': red.copy()})['img'] != red).any() for _ in range(600)])
        # A change by less than one level shows in some of them only.
        assert 0.42 < moved < 0.56, (name, moved)


def test_hue_shifts_by_whole_half_degrees_below_the_upper_end():
    transform = PhotometricDistortion(brightness_delta=0, contrast_range=(1, 1), saturation_range=(1, 1), hue_delta=3)
    np.random.seed(0)
    red = np.full((1, 1, 3), (255, 0, 0), 'uint8')
    hues = {int(rgb_to_hsv(transform({'img': red.copy()})['img'])[0, 0, 0]) for _ in range(200)}
    assert hues == {177, 178, 179, 0, 1, 2}


def test_photometric_reads_rgb():
    transform = PhotometricDistortion(brightness_delta=0, contrast_range=(1, 1), saturation_range=(0, 0), hue_delta=0)
    np.random.seed(0)
    pictures = [transform({'img': np.full((1, 1, 3), (200, 100, 20), 'float32')})['img'] for _ in range(20)]
    assert {tuple(picture[0, 0].tolist()) for picture in pictures} == {(200.0, 100.0, 20.0), (200.0, 200.0, 200.0)}


def test_photometric_keeps_the_type_and_rounds_first():
    transform = PhotometricDistortion(brightness_delta=0, contrast_range=(1, 1), saturation_range=(1, 1), hue_delta=0)
    np.random.seed(0)
    for dtype in ('uint8', 'float32', 'float64'):
        assert transform({'img': np.zeros((2, 2, 3), dtype)})['img'].dtype == dtype
    greys = np.repeat(np.array([[99.6, 99.4, -3.0, 300.0]], 'float32')[..., None], 3, axis=2)
    assert transform({'img': greys})['img'][0, :, 1].tolist() == [100.0, 99.0, 0.0, 255.0]


@pytest.mark.parametrize('shape', [(4, 4), (4, 4, 1), (4, 4, 4)])
def test_photometric_wants_colours(shape):
    channels = shape[2] if len(shape) == 3 else 1
    with pytest.raises(UserError, match=f'PhotometricDistortion: the image has {channels} channels, but hue and '
                                        'saturation need RGB images of 3; remove PhotometricDistortion'):
        PhotometricDistortion()({'img': np.zeros(shape, 'uint8')})


# --- arguments, and the way through the training loop -----------------------------------------------------------------

@pytest.mark.parametrize('make, message', [
    (lambda: RandomRescale(size=[2048]), r'RandomRescale: size \[2048\]: must be width and height'),
    (lambda: RandomRescale(size=(0, 5)), r'size \(0, 5\): must be width and height, two whole numbers of at least 1'),
    (lambda: RandomRescale(min_factor=2, max_factor=1), 'min_factor 2 and max_factor 1: must be above 0, and'),
    (lambda: RandomRescale(min_factor=0), 'min_factor 0 and max_factor 2.0: must be above 0'),
    (lambda: RandomClassBalancedCrop(crop_size=512), 'RandomClassBalancedCrop: crop_size 512: must be width and'),
    (lambda: RandomClassBalancedCrop(crop_size=(5, 2.5)), 'crop_size .*: must be width and height'),
    (lambda: RandomClassBalancedCrop(max_class_ratio=0), 'max_class_ratio 0: must be above 0; 1 switches'),
    (lambda: RandomClassBalancedCrop(tries=0), 'tries 0: must be at least 1'),
    (lambda: PhotometricDistortion(brightness_delta=-1), 'brightness_delta -1: must lie in 0 to 255'),
    (lambda: PhotometricDistortion(contrast_range=(1.5, 0.5)), r'contrast_range \(1.5, 0.5\): must be two factors'),
    (lambda: PhotometricDistortion(saturation_range=1), 'saturation_range 1: must be two factors, the smallest'),
    (lambda: PhotometricDistortion(hue_delta=91), 'hue_delta 91: must be a whole number of 0 to 90'),
    (lambda: PhotometricDistortion(hue_delta=1.5), 'hue_delta 1.5: must be a whole number'),
])
def test_arguments_out_of_range(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.fixture
def pipeline(tiny_tree, write_yaml):
    """The tiny configuration with this augmentation, as mmsegmentation orders it."""
    tiny_tree['train_dataset']['transforms'] = [
        {'type': 'RandomRescale', 'size': [96, 64], 'min_factor': 0.5, 'max_factor': 2.0},
        {'type': 'RandomClassBalancedCrop', 'crop_size': [80, 64], 'max_class_ratio': 0.75},
        {'type': 'RandomHorizontalFlip'},
        {'type': 'PhotometricDistortion'},
        {'type': 'Normalize', 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]},
        {'type': 'Padding', 'target_size': [80, 64], 'im_padding_value': 0, 'label_padding_value': 255}]
    return make_builder(load_config(write_yaml(tiny_tree))).train_dataset


def test_pads_the_normalised_image_with_zeros_and_the_label_with_ignored(pipeline):
    dataset = SeededDataset(pipeline, seed=0)
    padded = 0
    for index in range(len(dataset)):
        item = dataset[index, 0]
        assert item['img'].shape == (3, 64, 80) and item['label'].shape == (64, 80)
        assert item['img'].dtype == np.float32
        outside = item['label'] == 255
        if outside.any():
            padded += 1
            assert (item['img'][:, outside] == 0).all() and outside[-1, -1]
    assert padded


def test_a_sample_is_a_function_of_its_seed(pipeline):
    def draw(seed, epoch):
        random.seed(99)
        np.random.seed(99)
        return SeededDataset(pipeline, seed=seed)[3, epoch]

    first, again, other = draw(1, 0), draw(1, 0), draw(1, 1)
    np.testing.assert_array_equal(first['img'], again['img'])
    np.testing.assert_array_equal(first['label'], again['label'])
    assert not np.array_equal(first['img'], other['img'])

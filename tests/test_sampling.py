"""Which samples a step sees, how each is augmented, and what a sample that cannot be used says."""
from __future__ import annotations

import multiprocessing
import random

import numpy as np
import paddle
import pytest

from paddleseg_ext.engine.sampling import SeededDataset, ShuffledBatches, batches, collate
from paddleseg_ext.errors import UserError


class Noise(paddle.io.Dataset):
    """Items made of random numbers, as an augmentation draws them, and of the sample's number."""

    num_classes, ignore_index = 3, 255

    def __init__(self, count=8, label=0, dtype='uint8', sizes=(4,)):
        super().__init__()
        self.count, self.label, self.dtype, self.sizes = count, label, dtype, sizes
        self.file_list = [[f'images/{index}.png', f'labels/{index}.png'] for index in range(count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        side = self.sizes[index % len(self.sizes)]
        image = np.full((2, side, side), index, 'float32')
        image[1] = np.random.random((side, side)) + random.random()
        label = np.full((side, side), self.label, self.dtype)
        return {'img': image, 'label': label, 'trans_info': [('resize', (4, 4))], 'gt_fields': ['label']}


def order_of(samples, **options):
    defaults = {'batch_size': 2, 'start': 0, 'stop': 8, 'seed': 5}
    return list(ShuffledBatches(samples, **{**defaults, **options}))


def test_every_epoch_has_each_sample_once_in_another_order():
    found = order_of(8, stop=12)
    epochs = [[pair for batch in found[first:first + 4] for pair in batch] for first in (0, 4, 8)]
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == [(sample, number) for sample in range(8)]
    assert len({tuple(sample for sample, _ in epoch) for epoch in epochs}) == 3


def test_the_remainder_of_an_epoch_is_dropped():
    found = order_of(7, stop=3)
    assert len({pair for batch in found for pair in batch}) == 6
    assert {epoch for batch in found for _, epoch in batch} == {0}
    assert {epoch for _, epoch in order_of(7, start=3, stop=4)[0]} == {1}


def test_it_goes_on_where_it_was_left():
    assert order_of(8, start=3) == order_of(8)[3:]
    assert order_of(8, seed=6) != order_of(8)


def test_ranks_share_an_epoch_without_overlap():
    first, second = (order_of(8, stop=2, rank=rank, ranks=2) for rank in (0, 1))
    assert [len(batch) for batch in first + second] == [2, 2, 2, 2]
    assert sorted(pair for batch in first + second for pair in batch) == [(sample, 0) for sample in range(8)]
    # Together they see what one process with twice the batch sees.
    together = order_of(8, batch_size=4, stop=2)
    assert [left + right for left, right in zip(first, second)] == together


@pytest.mark.parametrize('samples, ranks, text', [
    (3, 1, 'the training set has 3 samples, fewer than one batch of 4 on 1 device; lower batch_size to at most 3'),
    (7, 2, 'has 7 samples, fewer than one batch of 4 on 2 devices; lower batch_size to at most 3, or add images'),
    (0, 1, 'has 0 samples, fewer than one batch of 4 on 1 device; please add images')])
def test_less_than_a_batch_is_refused(samples, ranks, text):
    with pytest.raises(UserError, match=text):
        ShuffledBatches(samples, batch_size=4, start=0, stop=1, seed=0, ranks=ranks)


def test_augmentation_depends_on_seed_epoch_and_sample_alone():
    data = SeededDataset(Noise(), seed=3)
    image = data[2, 0]['img']
    random.seed(99)
    np.random.seed(99)
    assert np.array_equal(data[2, 0]['img'], image)
    noises = [data[2, 0], data[3, 0], data[2, 1], SeededDataset(Noise(), seed=4)[2, 0]]
    assert len({item['img'][1].tobytes() for item in noises}) == 4
    assert sorted(data[0, 0]) == ['img', 'label']


def test_workers_change_nothing():
    data = SeededDataset(Noise(), seed=3)
    order = ShuffledBatches(8, batch_size=2, start=1, stop=7, seed=5)
    alone, workers = (list(batches(data, order, num_workers=count)) for count in (0, 2))
    assert len(alone) == len(workers) == 6
    for batch, other in zip(alone, workers):
        assert isinstance(batch['img'], paddle.Tensor) and batch['img'].shape == [2, 2, 4, 4]
        for name in ('img', 'label'):
            assert np.array_equal(batch[name].numpy(), other[name].numpy())
            assert batch[name].dtype == other[name].dtype


@pytest.mark.parametrize('label, dtype, valid', [
    (2, 'uint8', True), (255, 'uint8', True), (3, 'uint8', False), (254, 'uint8', False), (-1, 'int32', False),
    (2, 'int64', True), (255, 'int64', True), (300, 'int64', False)])
def test_labels_outside_the_classes(label, dtype, valid):
    data = SeededDataset(Noise(label=label, dtype=dtype), seed=0)
    if valid:
        assert data[1, 0]['label'].max() == label
        return
    text = (rf'training sample 1: images/1.png and labels/1.png: label ids that are no class: {label}; ids go from 0 '
            r'to 2, and 255 is ignored\. Correct num_classes, ')
    with pytest.raises(UserError, match=text):
        data[1, 0]


def test_a_data_set_that_tells_no_classes_is_not_checked():
    class Bare(Noise):
        num_classes = None

    assert SeededDataset(Bare(label=200), seed=0)[0, 0]['label'].max() == 200


@pytest.mark.parametrize('num_workers', [0, 2])
def test_mistakes_come_through_as_one_clean_sentence(num_workers):
    class Broken(Noise):
        def __init__(self):
            super().__init__()
            del self.file_list

        def __getitem__(self, index):
            raise IndexError('crop larger than the image')

    order = ShuffledBatches(8, batch_size=8, start=0, stop=4, seed=5)
    text = (r'^training sample \d: Broken cannot be prepared for training, IndexError: crop larger than the image; '
            r'check the training transforms, and the files with `paddleseg data check`\.$')
    with pytest.raises(UserError, match=text):
        list(batches(SeededDataset(Broken(), seed=0), order, num_workers=num_workers))


def test_mistakes_of_the_data_set_keep_their_words():
    class Strict(Noise):
        def __getitem__(self, index):
            raise UserError('a.png: the colour (1, 2, 3) is none of ours')

    with pytest.raises(UserError, match=r'^training sample 4: a.png: the colour \(1, 2, 3\) is none of ours$'):
        SeededDataset(Strict(), seed=0)[4, 0]


@pytest.mark.parametrize('num_workers', [0, 2])
def test_different_sizes_in_a_batch(num_workers):
    order = ShuffledBatches(8, batch_size=4, start=0, stop=2, seed=5)
    text = (r'images of one batch differ in shape \(channels, height, width\): \[\(2, 4, 4\), \(2, 6, 6\)\]; add '
            r'RandomPaddingCrop or Resize to the training transforms, or set batch_size to 1\.$')
    with pytest.raises(UserError, match=text):
        list(batches(SeededDataset(Noise(sizes=(4, 6)), seed=0), order, num_workers=num_workers))


def test_labels_of_another_size_than_their_image():
    items = [{'img': np.zeros((3, 4, 4), 'float32'), 'label': np.zeros((4, side), 'uint8')} for side in (4, 5)]
    with pytest.raises(UserError, match=r"arrays called 'label' in one batch differ in shape: \[\(4, 4\), \(4, 5\)\]"):
        collate(items)


def test_no_worker_outlives_its_batches():
    before = set(multiprocessing.active_children())
    order = ShuffledBatches(8, batch_size=8, start=0, stop=4, seed=5)
    with pytest.raises(UserError):
        list(batches(SeededDataset(Noise(label=7), seed=0), order, num_workers=2))
    assert set(multiprocessing.active_children()) <= before

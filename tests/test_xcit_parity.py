"""XCiT beside timm at reduced widths, loaded from files in timm's names and layout.

`parity/make_xcit_fixtures.py` made the expected logits with timm itself. Depths and heads are those of the variants, so
every structure is covered; `make test-parity` compares the full widths, and the segmentors.
"""
from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest
from cases import relative_difference
from safetensors.numpy import save_file
from xcit_checkpoints import classifier, reduced
from xcit_sources import FIXTURES, NUM_CLASSES, SIZES, TIMM_NAMES, images, output_key, read_shapes, source_weights

from paddleseg_ext.backbones.xcit import VARIANTS, XCiTClassifier

LIMIT = 1e-5


@pytest.fixture(scope='module')
def expected():
    """timm's logits, by the key of the case."""
    return dict(np.load(FIXTURES / 'outputs.npz'))


def source_file(folder, name: str) -> str:
    path = folder / f'{name}.safetensors'
    save_file(source_weights(read_shapes(name)), path, metadata={'format': 'pt'})
    return str(path)


@paddle.no_grad()
def run(model, size) -> np.ndarray:
    model.eval()
    return model(paddle.to_tensor(images(size))).numpy()


def test_there_is_a_fixture_for_every_variant(expected):
    assert list(TIMM_NAMES) == list(VARIANTS)
    assert set(expected) == {output_key(name, size, 'main') for name in VARIANTS for size in SIZES}
    assert any(side % 2 for size in SIZES for side in size)


@pytest.mark.parametrize('name', TIMM_NAMES)
def test_classifiers_equal_those_of_timm(name, expected, tmp_path):
    model = classifier(name, pretrained=source_file(tmp_path, name))
    for size in SIZES:
        wanted = expected[output_key(name, size, 'main')]
        assert relative_difference(run(model, size), wanted) < LIMIT, size
        # Images differ by far more than the limit, so the comparison is of what was seen.
        assert np.abs(wanted[0] - wanted[1]).max() > 100 * LIMIT * np.abs(wanted).max()


def test_other_arithmetic_gives_other_numbers(expected, tmp_path):
    """So that the comparisons above would notice another order or norm."""
    name = 'XCiT_T12_P16'
    wanted = expected[output_key(name, SIZES[1], 'main')]
    file = source_file(tmp_path, name)
    other = XCiTClassifier(dataclasses.replace(reduced(name), tokens_norm=False), num_classes=NUM_CLASSES,
                           pretrained=file)
    assert relative_difference(run(other, SIZES[1]), wanted) > 10 * LIMIT
    for part in ('temperature', 'gamma3', 'position.proj.bias', 'position.proj.weight', 'local.bn._mean'):
        model = classifier(name, pretrained=file)
        for key, value in model.state_dict().items():
            if key.endswith(part):
                value.set_value(value * 0.9)
        assert relative_difference(run(model, SIZES[1]), wanted) > 10 * LIMIT, part

"""Twins beside timm and mmsegmentation at reduced widths, loaded from files in their names and layout.

`parity/make_fixtures.py` made the expected logits with timm and mmsegmentation themselves. Depths, heads and ratios are
those of the variants, so every structure is covered; `make test-parity` compares the full widths.
"""
from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import paddle
import pytest
from cases import relative_difference
from safetensors.numpy import save_file
from twins_checkpoints import backbone, classifier
from twins_sources import (
    AUXILIARY,
    FIXTURES,
    HEADS,
    NUM_CLASSES,
    REDUCED_HEADS,
    SIZES,
    SUBSAMPLING,
    TIMM_NAMES,
    images,
    mask_is_right,
    output_key,
    read_shapes,
    source_weights,
)

from paddleseg_ext.backbones.twins import VARIANTS
from paddleseg_ext.cli.main import main
from paddleseg_ext.models.semantic_fpn import SemanticFPN
from paddleseg_ext.models.upernet import UPerNetMMSeg

DOCUMENT = Path(__file__).resolve().parents[1] / 'docs/checkpoints.md'
LIMIT = 1e-5

over_variants = pytest.mark.parametrize('name', TIMM_NAMES)
over_heads = pytest.mark.parametrize('head', HEADS)


def reduced_segmentor(name: str, head: str, pretrained: str | None = None):
    """Our segmentor at the widths of the fixtures, with mmsegmentation's arithmetic."""
    wanted = {'SemanticFPN': ('fpn_channels', 'head_channels'), 'UPerNetMMSeg': ('channels', 'aux_channels')}[head]
    model = {'SemanticFPN': SemanticFPN, 'UPerNetMMSeg': UPerNetMMSeg}[head]
    widths = {key: REDUCED_HEADS[key] for key in wanted}
    return model(NUM_CLASSES, backbone(name, norm_epsilon=1e-5), pretrained=pretrained, **widths)


@pytest.fixture(scope='module')
def expected():
    """Logits of the references, by the source and the key of the case."""
    return {source: dict(np.load(FIXTURES / source / 'outputs.npz')) for source in ('timm', 'mmsegmentation')}


def source_file(folder, source: str, case: str) -> str:
    path = folder / f'{case}.safetensors'
    save_file(source_weights(read_shapes(source, case)), path, metadata={'format': 'pt'})
    return str(path)


@paddle.no_grad()
def run(model, size) -> np.ndarray:
    outputs = model(paddle.to_tensor(images(size)))
    return (outputs[0] if isinstance(outputs, list) else outputs).numpy()


def test_the_fixtures_are_where_both_references_are_right():
    assert all(mask_is_right(size) for size in SIZES)
    assert any(side % 2 for size in SIZES for side in size)
    assert not mask_is_right((56, 64))


@over_variants
def test_classifiers_equal_those_of_timm(name, expected, tmp_path):
    model = classifier(name, lsa_padding='zero', pretrained=source_file(tmp_path, 'timm', name))
    model.eval()
    for size in SIZES:
        wanted = expected['timm'][output_key(name, size, 'main')]
        assert relative_difference(run(model, size), wanted) < LIMIT, size


@over_variants
@over_heads
def test_segmentors_equal_those_of_mmsegmentation(name, head, expected, tmp_path):
    case = f'{name}_{head}'
    model = reduced_segmentor(name, head, source_file(tmp_path, 'mmsegmentation', case))
    model.eval()
    for size in SIZES:
        wanted = expected['mmsegmentation'][output_key(case, size, 'main')]
        ours = run(model, size)[..., ::SUBSAMPLING, ::SUBSAMPLING]
        assert relative_difference(ours, wanted) < LIMIT, size
        if model.auxiliary_head is not None:
            wanted = expected['mmsegmentation'][output_key(case, size, AUXILIARY)]
            with paddle.no_grad():
                ours = model.auxiliary_head(model.backbone(paddle.to_tensor(images(size)))[2]).numpy()
            assert relative_difference(ours, wanted) < LIMIT, size


@over_variants
def test_a_backbone_takes_its_part_of_a_segmentor_and_of_a_classifier(name, tmp_path):
    whole = reduced_segmentor(name, 'SemanticFPN', source_file(tmp_path, 'mmsegmentation', f'{name}_SemanticFPN'))
    alone = backbone(name, pretrained=source_file(tmp_path, 'mmsegmentation', f'{name}_UPerNetMMSeg'))
    assert_equal_weights(alone, whole.backbone)
    file = source_file(tmp_path, 'timm', name)
    assert_equal_weights(backbone(name, pretrained=file), classifier(name, pretrained=file).backbone)


def assert_equal_weights(ours, others) -> None:
    """What `others` has; the norms after the stages of SVT are not in a classifier, and the only names it may lack."""
    wanted, given = others.state_dict(), ours.state_dict()
    assert set(given) >= set(wanted) and all(re.match(r'stages\.\d\.norm\.', key) for key in set(given) - set(wanted))
    for key, value in wanted.items():
        np.testing.assert_array_equal(given[key].numpy(), value.numpy(), err_msg=key)


def test_other_arithmetic_gives_other_numbers(expected, tmp_path):
    """So that the comparisons above would notice the wrong padding or epsilon."""
    name = 'Twins_SVT_S'
    wanted = expected['timm'][output_key(name, SIZES[0], 'main')]
    file = source_file(tmp_path, 'timm', name)
    for change in ({'lsa_padding': 'mask'}, {'lsa_padding': 'zero', 'norm_epsilon': 1e-3}):
        model = classifier(name, pretrained=file, **change)
        model.eval()
        assert relative_difference(run(model, SIZES[0]), wanted) > 10 * LIMIT, change


# The document

def test_the_table_of_parity_has_a_word_for_every_variant():
    of_twins = DOCUMENT.read_text().split('XCiT, patches of')[0]
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in of_twins.splitlines()
            if re.match(r'\| .*(\| (live|names|PCPVT-S) )', line)]
    assert ['Twins_' + name.replace('-', '_') for name in rows[0][1:]] == list(VARIANTS)
    assert all(set(row[1:]) in ({'live'}, {'names'}) for row in rows[1:]) and len(rows) == 9


def test_the_commands_of_the_document_run(tmp_path, monkeypatch, capsys):
    text = DOCUMENT.read_text()
    [program] = re.findall(r'^```python\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
    [command] = re.findall(r'^```bash\npaddleseg (.*?)\n```$', text, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    assert main(command.split()) == 0
    assert 'ours.safetensors' in capsys.readouterr().out and Path('ours.safetensors').exists()

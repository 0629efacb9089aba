"""Cost against pixels: arguments, fit, report and picture on made-up points. Only one tiny point is measured."""
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import linearity, linearity_point
from benchmarks.linearity import FIT_FROM, MODELS, PARTS, exponent, parse, render
from benchmarks.report import fill

ROOT = Path(__file__).resolve().parents[1]


def point(model: str, size: int, power: float, part: str = 'segmentor', **changes) -> dict:
    """A point on 1 s and 1 MiB at 256², times pixels to the power."""
    growth = (size / 256)**(2 * power)
    return {'model': model, 'part': part, 'size': size, 'seconds': growth, 'clock_seconds': growth,
            'bytes': growth * 2**20, 'failure': '', 'too_much': False, **changes}


def too_much(model: str, size: int, text: str = 'more than 12 GiB') -> dict:
    return {'model': model, 'part': 'segmentor', 'size': size, 'failure': text, 'too_much': True}


@pytest.fixture
def run():
    """A finished run as `--json` writes it: XCiT linear, ViT quadratic and too much at 1024²."""
    points = [point('XCiT_S12_P16', size, 1., part) for part in PARTS for size in (256, 512, 1024)]
    points += [point('ViT_S', size, 2.) for size in (256, 512, 768)] + [too_much('ViT_S', 1024)]
    return {'date': '2026-11-20', 'cpu': 'a processor, 2 cores', 'load': [.1, 1.],
            'versions': {'paddlepaddle': '3.2.2'}, 'points': points}


def test_by_default_everything_is_measured():
    args = parse([])
    assert args.models == list(MODELS)
    assert args.sizes == [256, 384, 512, 768, 1024, 1536, 2048]
    assert args.gibibytes < 14


def test_a_quick_look():
    args = parse(['--sizes', '384', '256', '--models', 'ViT_S', 'RTFormer'])
    assert (args.sizes, args.models) == ([256, 384], ['ViT_S', 'RTFormer'])


@pytest.mark.parametrize('arguments, text', [
    (['--sizes', '100'], '--sizes 100: expected multiples of 32.'),
    (['--models', 'ViT_M'], "invalid choice: 'ViT_M'"),
])
def test_wrong_arguments_say_what_is_right(arguments, text, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert text in capsys.readouterr().err


@pytest.mark.parametrize('power', [1., 1.37, 2.])
def test_the_exponent_of_a_power_is_found(power):
    points = [point('ViT_S', size, power) for size in (512, 768, 1024, 2048)]
    assert exponent(points, 'seconds') == pytest.approx(power)
    assert exponent(points, 'bytes') == pytest.approx(power)


def test_small_images_and_failures_have_no_part_in_the_fit():
    points = [point('ViT_S', size, 1.5) for size in (512, 1024)]
    others = [point('ViT_S', 256, 1.5, seconds=99.), too_much('ViT_S', 2048)]
    assert exponent(points + others, 'seconds') == pytest.approx(1.5)
    assert exponent(points[:1] + others, 'seconds') is None
    assert FIT_FROM == 512


def test_the_report_has_every_figure(run):
    text = render(run, 'pictures/linearity.png')
    assert '| XCiT-S12/16 | with SemanticFPN | 1.00 | 4.00 |  | 16.00 | 1.00 |' in text
    assert '| XCiT-S12/16 | backbone alone | 1 | 4 |  | 16 | 1.00 |' in text
    assert '| ViT-S/16, PaddleSeg | with SemanticFPN | 1.00 | 16.00 | 81.00 | too much | 2.00 |' in text
    assert '- ViT-S/16, PaddleSeg, with SemanticFPN, 1024²: more than 12 GiB.' in text
    assert '![Time and memory against pixels, logarithmic](pictures/linearity.png)' in text
    tables = [block.splitlines() for block in text.split('\n\n') if block.startswith('|')]
    assert len(tables) == 2
    assert all(len({row.count('|') for row in rows}) == 1 for rows in tables)


def test_a_finished_run_becomes_document_and_picture(run, tmp_path):
    source, document, picture = tmp_path / 'run.json', tmp_path / 'page.md', tmp_path / 'pictures/curves.png'
    source.write_text(json.dumps(run))
    document.write_text('before\n<!-- linearity:begin (x) -->\nold\n<!-- linearity:end -->\nafter\n')
    assert linearity.main(['--from', str(source), '--document', str(document), '--picture', str(picture)]) == 0
    text = document.read_text()
    assert 'old' not in text and '(pictures/curves.png)' in text and text.endswith('-->\nafter\n')
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_after_too_much_larger_images_are_not_tried(monkeypatch, tmp_path):
    asked = []

    def measure(model, part, size, args):
        asked.append((part, size))
        if part == 'segmentor' and size > 256:
            return {'failure': 'more than 300 s', 'too_much': True}
        return {'seconds': 1., 'clock_seconds': 1., 'bytes': 2**20}

    monkeypatch.setattr(linearity, '_measure', measure)
    arguments = ['--models', 'ViT_S', '--sizes', '256', '512', '1024', '--json', str(tmp_path / 'run.json')]
    assert linearity.main(arguments) == 0
    assert asked == [('segmentor', 256), ('segmentor', 512), *(('backbone', size) for size in (256, 512, 1024))]
    points = json.loads((tmp_path / 'run.json').read_text())['points']
    assert points[2]['failure'] == 'not tried after more than 300 s' and points[2]['too_much']


def test_a_broken_point_is_no_success(monkeypatch):
    monkeypatch.setattr(linearity, '_measure', lambda *_: {'failure': 'ended with 1', 'too_much': False})
    assert linearity.main(['--models', 'RTFormer', '--sizes', '256']) == 1


def test_the_page_has_the_marks():
    assert 'new' in fill((ROOT / 'docs/linearity.md').read_text(encoding='utf-8'), 'new', 'linearity')


def test_the_page_tells_the_limits():
    page = (ROOT / 'docs/linearity.md').read_text(encoding='utf-8')
    args = parse([])
    assert re.search(rf'more than {args.seconds:g} seconds or {args.gibibytes:g} GiB', page)
    assert f'within {linearity_point.SECONDS:g} seconds' in page


def test_vit_s_gives_maps_and_is_vit_s():
    import paddle

    backbone = linearity_point.build('ViT_S', 'backbone', 64)
    maps = backbone(paddle.zeros([1, 3, 64, 96]))
    assert [list(x.shape) for x in maps] == [[1, 384, 4, 6]] * 4
    # ViT-S has 22.05 million, of which its classifier 385,000; here is no last norm, and fewer positions.
    count = sum(x.size for x in backbone.parameters()) - 17 * 384
    assert count == 22_050_664 - 385_000 - 2 * 384 - 197 * 384


def test_a_point_is_measured():
    found = linearity_point.measure(linearity_point.build('ViT_S', 'segmentor', 64), 64)
    assert set(found) == {'clock_seconds', 'seconds', 'bytes'} and 0 < found['seconds'] < 60

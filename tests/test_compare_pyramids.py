"""The comparison of VTFPN with SemanticFPN: its command line, its processes and its report. Nothing is timed here."""
from __future__ import annotations

import json

import pytest

from benchmarks import compare_pyramids, pyramid_subject
from benchmarks.compare_pyramids import main, parse, render


def pair(kind: str, ours: float) -> dict:
    return {'kind': kind, 'backbone': 'ResNet50', 'SemanticFPN': {'seconds': 1.2, 'bytes': 2**30},
            'VTFPN': {'seconds': ours, 'bytes': 2**29}}


@pytest.fixture
def run():
    """A finished comparison as `--json` writes it."""
    return {'date': '2026-11-20', 'cpu': 'a processor, 2 cores', 'load': [.1, 1.], 'versions': {'numpy': '1.26.4'},
            'size': 512, 'batch': 2, 'rounds': 5, 'pairs': [pair('decode', .3), pair('training', .8)]}


def test_report(run, tmp_path):
    report = render(run)
    assert 'Images of 512²' in report and 'load average 0.1 at the start and 1.0 at the end; numpy 1.26.4' in report
    rows = [line.split(' | ') for line in report.splitlines() if 'ResNet50' in line]
    assert [row[2:5] for row in rows] == [['1200', '300', '4.0'], ['1200', '800', '1.5']]
    assert [row[5].strip(' |') for row in rows] == ['1024', '1024']

    document = tmp_path / 'document.md'
    document.write_text('<!-- pyramids:begin -->\nold\n<!-- pyramids:end -->\n', encoding='utf-8')
    (tmp_path / 'run.json').write_text(json.dumps(run), encoding='utf-8')
    assert main(['--from', str(tmp_path / 'run.json'), '--document', str(document)]) == 0
    assert report in document.read_text(encoding='utf-8') and 'old' not in document.read_text(encoding='utf-8')


@pytest.mark.parametrize('arguments, text', [
    (['--rounds', '0'], '--rounds 0: expected a whole number of at least 1.'),
    (['--kinds', 'export'], "invalid choice: 'export'"),
])
def test_wrong_arguments_say_what_is_right(arguments, text, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert text in capsys.readouterr().err


@pytest.mark.parametrize('kind', compare_pyramids.KINDS)
def test_a_step_of_every_kind_runs(kind):
    value = pyramid_subject.make_step(kind, 'VTFPN', 'VT_ResNet18', 32, 2)()
    assert kind != 'training' or value > 0.


def test_the_processes_of_a_pair_answer(tmp_path):
    assert main(['--backbones', 'ResNet18', '--kinds', 'decode', '--size', '32', '--rounds', '1', '--json',
                 str(tmp_path / 'run.json')]) == 0
    found, = json.loads((tmp_path / 'run.json').read_text(encoding='utf-8'))['pairs']
    assert all(found[head]['seconds'] > 0. and found[head]['bytes'] > 2**20 for head in compare_pyramids.HEADS)

"""`make demo`, with a few steps on a few images: what it leaves, and that it touches nothing of anybody's."""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from scripts import demo

ROOT = Path(__file__).resolve().parents[1]


def run_demo(*arguments):
    return subprocess.run([sys.executable, '-m', 'scripts.demo', *map(str, arguments)], cwd=ROOT, text=True,
                          capture_output=True, timeout=1200)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Folder and output of a quick demo."""
    folder = tmp_path_factory.mktemp('demo') / 'demo'
    done = run_demo('--quick', '--save_dir', folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder, done.stdout


@pytest.mark.slow
def test_leaves_what_it_promises(finished):
    folder, _ = finished
    for name in ('report.html', 'contact_sheet.png', 'loss.png', 'miou.png'):
        assert (folder / name).stat().st_size > 1000, name
    for name in ('predict', 'infer'):
        assert len(list((folder / name / 'added_prediction').rglob('*.png'))) == 2
    with Image.open(folder / 'contact_sheet.png') as sheet:
        assert sheet.width > 1000
    figures = json.loads((folder / 'demo.json').read_text(encoding='utf-8'))
    assert figures['miou'] == pytest.approx(figures['miou_exported'], abs=demo.ALLOWED_DIFFERENCE)
    assert set(figures) >= {'made_by', 'seconds', 'stages', 'differing_pixels'}


@pytest.mark.slow
def test_announces_every_stage_and_command(finished):
    _, output = finished
    stages = [line for line in output.splitlines() if line.startswith('[')]
    assert [line.split(']')[0] for line in stages] == [f'[{number}/8' for number in range(1, 9)]
    for verb in ('data synth', 'data check', 'config check', 'train', 'val', 'predict', 'export', 'infer'):
        assert f': paddleseg {verb} ' in output
    assert 'report.html' in output.splitlines()[-3]


@pytest.mark.slow
def test_report_stands_alone(finished):
    folder, _ = finished
    page = (folder / 'report.html').read_text(encoding='utf-8')
    assert page.count('src="data:image/png;base64,') == 3 and 'src="http' not in page and 'href=' not in page
    for text in ('A quick run of a few steps', 'paddleseg train --config', 'latency', 'exported program against'):
        assert text in page


@pytest.mark.slow
def test_starts_afresh_and_keeps_what_is_not_its_own(finished):
    folder, _ = finished
    (folder / 'notes.txt').write_text('mine')
    (folder / 'train/old').write_text('of an earlier demo')
    demo.clean(folder)
    assert sorted(path.name for path in folder.iterdir()) == ['demo.json', 'notes.txt']


def test_refuses_a_folder_of_somebody_else(tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/precious.txt').write_text('mine')
    with pytest.raises(demo.DemoError, match='was not made by a demo; move it away, or name another with --save_dir'):
        demo.clean(tmp_path)
    assert (tmp_path / 'data/precious.txt').exists()


def test_clean_makes_the_folder(tmp_path):
    demo.clean(tmp_path / 'new/demo')
    assert [path.name for path in (tmp_path / 'new/demo').iterdir()] == ['demo.json']
    demo.clean(tmp_path / 'new/demo')


@pytest.mark.parametrize('before, after, quick, message', [
    (0.70, 0.68, False, r'another mIoU \(0.6800\) than the model \(0.7000\)'),
    (0.55, 0.55, False, 'mIoU 0.5500 is below 0.6, which this training should reach'),
    (0.10, 0.20, True, 'another mIoU'),
])
def test_judges_the_result(before, after, quick, message, tmp_path):
    judged = make_demo(tmp_path, quick=quick)
    with pytest.raises(demo.DemoError, match=message):
        judged._judge({'before': {'miou': before}, 'after': {'miou': after}, 'seconds': 60.})


def test_quick_results_are_not_judged(tmp_path, capsys):
    make_demo(tmp_path, quick=True)._judge({'before': {'miou': 0.1}, 'after': {'miou': 0.1}, 'seconds': 60.})
    assert 'report.html' in capsys.readouterr().out


def test_failing_command_ends_the_demo(tmp_path):
    failing = make_demo(tmp_path, quick=True)
    with pytest.raises(demo.DemoError, match='`paddleseg config check` .* failed with exit code 2; its messages'):
        failing._call(['config', 'check'], 'paddleseg config check')


def make_demo(folder, *, quick):
    return demo._Demo(argparse.Namespace(save_dir=folder, quick=quick, iters=None))

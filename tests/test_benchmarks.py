"""The comparison with timm: its command line, its processes and its report. Nothing is timed here."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import compare_backbones, dygraph_profile, report
from benchmarks.compare_backbones import Measurement, by_family, line, parse
from benchmarks.report import fill
from benchmarks.turns import Child, ChildFailure, TooMuch

ROOT = Path(__file__).resolve().parents[1]


def measurement(path: str, seconds: list[float], **changes) -> dict:
    return {'model': 'Twins_SVT_S', 'environment': 'default', 'path': path, 'seconds': seconds,
            'processor_seconds': [2 * second for second in seconds], 'difference': 2e-7, 'peak_bytes': 512 * 2**20,
            'failure': '', **changes}


@pytest.fixture
def run():
    """A finished comparison as `--json` writes it."""
    measurements = [measurement('timm', [1., 2., 4.]), measurement('dygraph', [3., 4., 8.]),
                    measurement('onnxruntime', [.5, .8, 2.]),
                    measurement('openvino', [], failure='convert ended with 1'),
                    measurement('timm-train', [10., 10., 10.]), measurement('dygraph-train', [20., 21., 22.])]
    profiles = [{'model': 'Twins_SVT_S', 'environment': 'default', 'path': 'dygraph',
                 'seconds': {'matmul in Linear': .3, 'conv2d in Conv2D': .1}}]
    return {'date': '2026-11-20', 'cpu': 'a processor, 2 cores', 'load': [.1, 1.], 'versions': {'torch': '2.13.0'},
            'threads': 2, 'size': 512, 'batch': 2, 'rounds': 3, 'warmup': 1, 'measurements': measurements,
            'profiles': profiles}


def test_by_default_everything_is_measured():
    args = parse([])
    assert args.models == ('Twins_PCPVT_S', 'Twins_SVT_S', 'Twins_SVT_B', 'XCiT_N12_P16', 'XCiT_T12_P16',
                           'XCiT_S12_P16')
    assert args.paths == compare_backbones.PATHS and args.environments == ('default', 'kept', 'kept+mkl')
    assert (args.size, args.batch, args.profiles) == (512, 2, True)


def test_lists_are_split():
    args = parse(['--paths', 'timm,paddle', '--environments', 'kept', '--models', 'Twins_SVT_L', '--no-profiles'])
    assert (args.paths, args.environments, args.models) == (('timm', 'paddle'), ('kept',), ('Twins_SVT_L',))
    assert not args.profiles


@pytest.mark.parametrize('arguments, text', [
    (['--paths', 'timm,tvm'], "'timm,tvm': expected names out of timm,dygraph"),
    (['--environments', ''], "'': expected names out of default,kept,kept+mkl"),
    (['--rounds', '0'], "'0': expected a whole number of at least 1"),
])
def test_wrong_arguments_say_what_is_right(arguments, text, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert text in capsys.readouterr().err


def test_a_ratio_is_taken_within_a_round(run):
    results = run['measurements']
    assert report.median_ratio(results[1], results) == 2.
    assert report.median_ratio(results[2], results) == .5
    assert report.median_ratio(results[5], results[4:]) == pytest.approx(2.1)
    assert report.median_ratio(results[3], results) is None
    assert report.median_ratio(results[1], results[1:4]) is None


def test_the_report_has_every_figure(run):
    text = report.render(run)
    assert '| Twins_SVT_S | timm, PyTorch eager | 2000 | 1500–3000 | 1.00 | 1.00 | 512 | 2e-07 |' in text
    assert '| Twins_SVT_S | ours, dygraph | 4000 | 3500–6000 | 2.00 | 2.00 | 512 | 2e-07 |' in text
    assert 'no figure: convert ended with 1' in text
    assert 'Best exported path, times timm: Twins_SVT_S 0.50 (onnxruntime).' in text
    assert '| matmul | Linear | 300 | 75% |' in text
    assert 'torch 2.13.0' in text and 'a processor, 2 cores, 2 threads' in text
    assert '### Environment as it is' in text
    assert text.index('Forward pass, batch 1') < text.index('Training step, batch 2')


def test_every_row_has_as_many_cells_as_its_head(run):
    blocks = [block.splitlines() for block in report.render(run).split('\n\n') if block.startswith('|')]
    assert len(blocks) == 3
    for rows in blocks:
        assert len({row.count('|') for row in rows}) == 1, rows


def test_a_long_profile_is_cut(run):
    run['profiles'][0]['seconds'] = {f'kernel{index} in Layer': 1. for index in range(20)}
    text = report.render(run)
    assert f'| {20 - report.MOST_ROWS} others |' in text
    assert text.count('| Layer |') == report.MOST_ROWS


def test_a_finished_run_can_be_rendered_into_a_document(run, tmp_path):
    source, document = tmp_path / 'run.json', tmp_path / 'page.md'
    run['measurements'] = [result for result in run['measurements'] if not result['failure']]
    source.write_text(json.dumps(run))
    document.write_text('before\n<!-- benchmarks-Twins:begin (x) -->\nold\n<!-- benchmarks-Twins:end -->\nafter\n')
    assert compare_backbones.main(['--from', str(source), '--document', str(document)]) == 0
    text = document.read_text()
    assert text.startswith('before\n<!-- benchmarks-Twins:begin (x) -->\n') and text.endswith('-->\nafter\n')
    assert 'old' not in text and 'Twins_SVT_S' in text


def test_a_document_without_marks_is_refused():
    with pytest.raises(ValueError, match='the document has 0 places marked <!-- benchmarks-Twins:begin'):
        fill('nothing', 'report', 'benchmarks-Twins')


def test_each_family_has_a_report_of_its_own(run):
    run['measurements'].append(measurement('timm', [7.], model='XCiT_N12_P16'))
    parts = by_family(run)
    assert list(parts) == ['Twins', 'XCiT'] and parts['XCiT']['profiles'] == []
    texts = {family: report.render(part) for family, part in parts.items()}
    assert '| XCiT_N12_P16 | timm, PyTorch eager | 7000 |' in texts['XCiT']
    assert 'Twins' not in texts['XCiT'] and 'XCiT' not in texts['Twins']


@pytest.mark.parametrize('family', ['Twins', 'XCiT'])
def test_the_page_has_the_marks(family):
    page = (ROOT / 'docs/benchmarks.md').read_text(encoding='utf-8')
    assert 'new' in fill(page, 'new', f'benchmarks-{family}')


def test_the_line_says_ratio_or_failure():
    reference = Measurement('M', 'kept', 'timm', [1.], [1.], 0., 2**20)
    assert '2.00×' in line(Measurement('M', 'kept', 'paddle', [2.], [3.], 1e-7, 2**20), reference)
    assert line(Measurement('M', 'kept', 'paddle', failure='broken'), reference).endswith('broken')


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Function that starts a program in place of a module of `benchmarks`."""
    started = []

    def start(program: str) -> Child:
        monkeypatch.setattr(sys, 'executable', str(tmp_path / 'interpreter'))
        Path(sys.executable).write_text(f'#!{sys.orig_executable}\n{program}')
        Path(sys.executable).chmod(0o755)
        started.append(Child('subject', [], {}, tmp_path / 'log'))
        return started[-1]

    monkeypatch.setattr(sys, 'orig_executable', sys.executable, raising=False)
    yield start
    for process in started:
        process.close()


def test_a_child_answers_and_its_noise_stays_out(child):
    own = child(f'import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom benchmarks.turns import serve\n'
                'serve(lambda: print("noise"), lambda: 0.5)\n')
    assert own.ask('check') == {'difference': .5}
    assert 0 <= own.ask('run')['seconds'] < 10 and 0 <= own.ask('run')['processor_seconds'] < 10
    assert own.ask('peak')['bytes'] > 2**20


def test_a_child_that_dies_says_why(child):
    own = child('raise SystemExit("out of paper")')
    with pytest.raises(ChildFailure, match=r'ended with 1: out of paper \(all of it: .*log\)'):
        own.ask('run')


def test_a_child_that_only_prepares(child):
    assert child('print("done")').wait() == 'done\n'
    with pytest.raises(ChildFailure, match='ended with 3: it printed nothing'):
        child('raise SystemExit(3)').wait()


def test_a_child_within_limits(child):
    assert child('print("done")').wait_within(seconds=60, bytes=2**30) == 'done\n'
    with pytest.raises(TooMuch, match='more than 0.1 s'):
        child('import time; time.sleep(60)').wait_within(seconds=.1, bytes=2**30)
    with pytest.raises(TooMuch, match='more than 0.0625 GiB'):
        child('import time; x = bytes(range(256)) * 2**19; time.sleep(60)').wait_within(seconds=60, bytes=2**26)


def test_a_profile_of_dygraph_names_kernels_and_layers():
    import paddle

    layer, x = paddle.nn.Linear(4, 4), paddle.ones([2, 4])
    seconds = dygraph_profile.profile(lambda: layer(x).sum().backward())
    assert seconds['matmul in Linear'] > 0 and seconds['matmul_grad in backward'] > 0
    assert seconds[dygraph_profile.REST] >= 0

"""The table of known-bad combinations, and `paddleseg doctor`."""
from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paddleseg_ext import environment
from paddleseg_ext.cli import doctor
from paddleseg_ext.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
GOOD = {'paddlepaddle': '3.2.2', 'paddleseg': '2.8.0', 'numpy': '1.26.4', 'opencv-python': '4.5.5.64'}
BAD = [
    ({'paddlepaddle': None}, 'error', 'Paddle is not installed', r'pip install paddlepaddle==3.2.2 .*paddlepaddle-gpu'),
    ({'paddlepaddle-gpu': '2.6.2'}, 'error', '3.2.2 and paddlepaddle-gpu 2.6.2 overwrite', 'pip uninstall -y'),
    ({'paddlepaddle': '2.5.2'}, 'error', 'Paddle 2.5.2 is too old, 2.6 is the oldest', 'pip install'),
    ({'paddlepaddle': '3.3.1'}, 'warning', 'Paddle 3.3.1 cannot interpolate with oneDNN', '3.2.2 is about 4 times'),
    ({'numpy': '2.3.1'}, 'error', 'opencv-python 4.5.5.64 needs numpy 1.*numpy 2.3.1', 'pip install "numpy<2"'),
    ({'numpy': '2.4.0', 'opencv-python': '4.12.0.88'}, 'error', 'numpy 2.4.0 breaks Paddle', 'pip install "numpy<2"'),
    ({'numpy': None}, 'error', 'numpy is not installed', 'pip install "numpy<2"'),
    ({'paddleseg': None}, 'error', 'PaddleSeg is not installed', 'paddleseg==2.8.0'),
    ({'paddleseg': '2.9.0'}, 'warning', 'PaddleSeg 2.9.0 is installed', 'paddleseg==2.8.0'),
]


@pytest.fixture
def install(monkeypatch):
    """Pretend that these distributions are installed, over GOOD; None means absent."""

    def pretend(**changes):
        present = {**GOOD, **changes}
        monkeypatch.setattr(environment, 'installed_version', present.get)

    return pretend


@pytest.mark.parametrize(('changes', 'level', 'what', 'remedy'), BAD)
def test_known_bad_combination(install, changes, level, what, remedy):
    install(**changes)
    (problem,) = environment.problems()
    assert problem.level == level
    assert re.search(what, problem.what)
    assert re.search(remedy, problem.remedy)


@pytest.mark.parametrize(('changes', 'level', 'what', 'remedy'), BAD)
def test_require_paddle(install, changes, level, what, remedy):
    install(**changes)
    if level == 'error':
        with pytest.raises(UserError, match=f'(?s){what}.*: .*{remedy}'):
            environment.require_paddle()
    else:
        environment.require_paddle()


@pytest.mark.parametrize('version', ['2.6.2', '3.0.0', '3.2.2', '0.0.0', '3.3.1'])
def test_good_combination(install, version):
    install(paddlepaddle=version)
    assert [problem for problem in environment.problems() if problem.level == 'error'] == []


def test_gpu_package_alone_is_good(install):
    install(**{'paddlepaddle': None, 'paddlepaddle-gpu': '3.2.2'})
    assert environment.problems() == []
    assert environment.paddle_version() == '3.2.2'


def test_every_error_in_one_message(install):
    install(paddlepaddle=None, paddleseg=None)
    with pytest.raises(UserError, match='(?s)cannot work:\n  - Paddle is not.*\n  - PaddleSeg is not installed'):
        environment.require_paddle()


def test_missing_setuptools(install, monkeypatch):
    install()
    monkeypatch.setattr(environment.importlib.util, 'find_spec', lambda name: None)
    for version, expected in (((3, 12), ['setuptools is not installed, and Paddle imports it']), ((3, 11), [])):
        monkeypatch.setattr(environment.sys, 'version_info', version)
        assert [problem.what for problem in environment.problems()] == expected


@pytest.mark.parametrize(('version', 'works'), [('2.6.2', True), ('3.2.2', True), ('3.3.0', False), ('3.3.1', False),
                                                ('3.3.2', True), ('0.0.0', True)])
def test_onednn_inference_works(version, works):
    assert environment.onednn_inference_works(version) is works


@pytest.mark.parametrize(('text', 'numbers'), [('3.2.2', (3, 2, 2)), ('3.0.0rc1', (3, 0, 0)), ('2.6', (2, 6, 0)),
                                               ('4.5.5.64', (4, 5, 5, 64)), ('develop', (0, 0, 0))])
def test_parse_version(text, numbers):
    assert environment.parse_version(text) == numbers


def test_environment_is_light():
    code = ('import sys; from paddleseg_ext import environment; from paddleseg_ext.cli import doctor; '
            'environment.problems(); print(sorted({"paddle", "numpy", "cv2", "paddleseg"} & set(sys.modules)))')
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == '[]'


def test_this_environment_works():
    environment.require_paddle()


# --- doctor -----------------------------------------------------------------------------------------------------------

def test_doctor_here(capsys):
    assert doctor.run(argparse.Namespace(json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report['ok']
    checks = {check['topic']: check for section in report['sections'].values() for check in section}
    assert checks['import paddle']['text'].startswith(environment.paddle_version())
    assert checks['import opencv']['status'] == checks['import paddleseg']['status'] == 'OK'
    works = environment.onednn_inference_works(environment.paddle_version())
    assert checks['oneDNN inference']['status'] == ('OK' if works else 'WARN')


def test_doctor_without_any_package():
    done = subprocess.run([sys.executable, '-S', '-m', 'paddleseg_ext', 'doctor'], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 1, done.stderr
    assert re.search(r'FAIL +paddle +not installed', done.stdout)
    assert 'pip install paddlepaddle==3.2.2 "numpy<2"' in done.stdout
    assert re.search(r'\d failed: see the lines marked FAIL', done.stdout)


def test_doctor_prints_aligned_lines_and_remedies(monkeypatch, capsys):
    sections = {'devices': [doctor.Check('OK', 'cpu', 'usable'), doctor.Check('WARN', 'gpu', 'none', 'buy one')]}
    monkeypatch.setattr(doctor, 'examine', lambda: sections)
    assert doctor.run(argparse.Namespace(json=False)) == 0
    assert capsys.readouterr().out == (
        'Devices\n  OK    cpu  usable\n  WARN  gpu  none\n             → buy one\n\nReady. 1 warning(s).\n')


@pytest.mark.parametrize(('found', 'version', 'status'), [
    ({'difference': 1e-7}, '3.2.2', 'OK'), ({'error': 'killed by signal 6'}, '3.2.2', 'FAIL'),
    ({'error': 'killed by signal 6'}, '3.3.1', 'WARN')])
def test_onednn_verdict(install, found, version, status):
    install(paddlepaddle=version)
    check = doctor._onednn(found)
    assert check.status == status
    assert bool(check.remedy) is (status != 'OK')


BREAKDOWNS = {
    'raises': ('raise ImportError("libGL.so.1: cannot open shared object file")', 'ImportError: libGL.so.1'),
    'crashes': ('import os; os.abort()', 'killed by signal 6'),
    'exits': ('raise SystemExit(3)', 'ended with exit code 3'),
    'works': ('', None),
}


def test_probes_that_break(monkeypatch):
    """Each is reported with its last words, and the ones after it are still asked."""
    definitions = {name: f'def {name}():\n {code or "pass"}\n return {{}}\n' for name, (code, _) in BREAKDOWNS.items()}
    prepare = 'from paddleseg_ext.cli import doctor\n' + ''.join(
        f'{definition}doctor._PROBES[{name!r}] = {name}\n' for name, definition in definitions.items())
    run_child = doctor._run_child
    monkeypatch.setattr(doctor, '_run_child', lambda code: run_child(prepare + code))
    found = doctor._probe_all(list(BREAKDOWNS))
    for name, (_, message) in BREAKDOWNS.items():
        assert (message in found[name]['error']) if message else 'error' not in found[name]


def test_probe_that_hangs(monkeypatch):
    monkeypatch.setattr(doctor, 'PROBE_SECONDS', 0.5)
    output, ending = doctor._run_child('import time; print("before", flush=True); time.sleep(60)')
    assert (output, ending) == ('before\n', 'no answer in 0.5 s')


def test_missing_library_of_opencv_has_a_remedy():
    check = doctor._component('opencv', {'error': 'ImportError: libGL.so.1: cannot open shared object file'})
    assert check.status == 'FAIL'
    assert 'apt-get install -y libgl1' in check.remedy


@pytest.mark.parametrize(('found', 'status', 'text'), [
    (None, 'FAIL', 'not installed'), ({'error': 'boom'}, 'FAIL', 'boom'),
    ({'version': '3.2.2', 'seconds': 1.0, 'cuda': '12.6', 'cudnn': '9.5', 'gpus': []}, 'WARN', 'sees no GPU'),
    ({'version': '3.2.2', 'seconds': 1.0, 'cuda': '12.6', 'cudnn': '9.5', 'gpus': ['H200']}, 'OK', 'H200 .CUDA 12.6')])
def test_devices(found, status, text):
    check = doctor._devices(found)[-1]
    assert check.status == status
    assert re.search(text, check.text)


AMD = 'vendor_id\t: AuthenticAMD\nflags\t\t: fpu sse2 avx2 fma\n'
INTEL = AMD.replace('AuthenticAMD', 'GenuineIntel')


@pytest.mark.parametrize('description, before, after', [
    (AMD, None, '5'),
    (AMD, '4', '4'),
    (INTEL, None, None),
    (AMD.replace(' avx2', ''), None, None),
    (None, None, None),
], ids=['amd', 'chosen by the user', 'intel', 'old amd', 'not linux'])
def test_fast_matrix_kernels_on_amd_only(monkeypatch, tmp_path, description, before, after):
    monkeypatch.setenv('MKL_DEBUG_CPU_TYPE', before or '')
    if before is None:
        monkeypatch.delenv('MKL_DEBUG_CPU_TYPE')
    if description is not None:
        (tmp_path / 'cpuinfo').write_text(description)
    environment.choose_matrix_kernels(tmp_path / 'cpuinfo')
    assert os.environ.get('MKL_DEBUG_CPU_TYPE') == after

"""The wheel: code, configurations and schema are inside, the command is registered, and it works where it lies."""
from __future__ import annotations

import configparser
import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import paddleseg_ext

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'paddleseg_ext', 'configs')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel, built from a copy, because a build leaves things behind in its tree."""
    folder = tmp_path_factory.mktemp('wheel')
    tree = folder / 'source'
    tree.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tree / name)
    command = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--disable-pip-version-check', '--no-deps',
               '--no-build-isolation', '--wheel-dir', folder, tree]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [path] = folder.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp('unpacked')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def files_below(folder, *patterns):
    return {str(path.relative_to(folder)) for pattern in patterns for path in folder.rglob(pattern)}


def test_holds_all_code_and_configurations(unpacked):
    package = unpacked / 'paddleseg_ext'
    assert files_below(package, '*.py') == files_below(ROOT / 'paddleseg_ext', '*.py')
    expected = files_below(ROOT / 'configs', '*.yml', '*.json')
    assert files_below(package / 'configs', '*.yml', '*.json') == expected
    assert 'schema.json' in expected


def test_holds_nothing_else(unpacked):
    top = {path.name for path in unpacked.iterdir()}
    assert top == {'paddleseg_ext', f'paddleseg_ext-{paddleseg_ext.__version__}.dist-info'}
    suffixes = {path.suffix for path in (unpacked / 'paddleseg_ext').rglob('*') if path.is_file()}
    assert suffixes == {'.py', '.yml', '.json'}


def test_describes_itself(unpacked):
    [info] = unpacked.glob('*.dist-info')
    metadata = email.message_from_string((info / 'METADATA').read_text(encoding='utf-8'))
    assert metadata['Version'] == paddleseg_ext.__version__
    requirements = metadata.get_all('Requires-Dist')
    assert any(line.replace(' ', '').startswith('paddleseg==2.8.0') for line in requirements)
    assert any(line.startswith('numpy') and '<2' in line for line in requirements)
    assert not [line for line in requirements if line.startswith('paddlepaddle') and 'extra' not in line]
    assert {'cpu', 'gpu', 'export', 'test'} <= set(metadata.get_all('Provides-Extra'))
    assert metadata.get_payload().startswith('# paddleseg_ext')
    assert list(info.rglob('LICENSE'))


def test_registers_the_command(unpacked):
    [info] = unpacked.glob('*.dist-info')
    entries = configparser.ConfigParser()
    entries.read(info / 'entry_points.txt')
    assert entries['console_scripts']['paddleseg'] == 'paddleseg_ext.cli.main:main'


def test_finds_its_configurations_by_name(unpacked, tmp_path):
    code = ('from paddleseg_ext.config.loading import find_config; '
            'print(find_config("rtformer_slim_camvid_480x360_30k"))')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=tmp_path, capture_output=True, text=True,
                          timeout=120, env={**os.environ, 'PYTHONPATH': str(unpacked)})
    assert done.returncode == 0, done.stderr
    expected = unpacked / 'paddleseg_ext/configs/rtformer/rtformer_slim_camvid_480x360_30k.yml'
    assert Path(done.stdout.strip()) == expected

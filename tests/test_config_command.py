"""`paddleseg config show | check | schema`."""
import argparse
import json

import pytest
import yaml

from paddleseg_ext.cli import config as command
from paddleseg_ext.errors import UserError


@pytest.fixture
def run(capsys):
    """Run the verb; returns the exit code and what it printed."""

    def run_command(*words):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        code = command.run(parser.parse_args([str(word) for word in words]))
        return code, capsys.readouterr().out

    return run_command


@pytest.fixture
def files(tmp_path):
    (tmp_path / 'base.yml').write_text('iters: 10\nmodel: {type: UNet, num_classes: 2}\n')
    child = tmp_path / 'child.yml'
    child.write_text('_base_: base.yml\nmodel:\n  num_classes: 3\n')
    return tmp_path, child


def test_show(run, files):
    code, out = run('show', '--config', files[1], '--opts', 'iters=20')
    assert code == 0
    assert yaml.safe_load(out) == {'iters': 20, 'model': {'type': 'UNet', 'num_classes': 3}}


def test_show_with_lines(run, files, monkeypatch):
    monkeypatch.chdir(files[0])
    code, out = run('show', '--config', files[1], '--with_lines', '--opts', 'iters=20')
    assert code == 0
    assert [line.split('#')[1].strip() for line in out.splitlines()] == [
        '--opts iters=20', 'child.yml:2', 'base.yml:2', 'child.yml:3']


def test_check_reports_every_problem_and_fails(run, files):
    code, out = run('check', '--config', files[1], '--opts', 'model.num_classes=x')
    assert code == 1
    lines = out.splitlines()
    assert "--opts model.num_classes=x: model.num_classes: must be a whole number, got the text 'x'" in lines
    assert any('child.yml:1: optimizer: missing' in line for line in lines)


def test_check_goes_on_after_a_broken_file(run, files):
    broken = files[0] / 'broken.yml'
    broken.write_text('a: [')
    code, out = run('check', '--config', broken, files[1], '--no_paths')
    assert code == 1
    assert 'broken.yml:1:5: not YAML' in out and 'child.yml' in out


def test_check_says_ok(run, files, monkeypatch):
    from paddleseg_ext import config
    monkeypatch.setattr(config, 'check_config', lambda *_, **__: [])
    assert run('check', '--config', files[1]) == (0, 'OK\n')
    assert run('check', '--config', files[1], files[1]) == (0, f'{files[1]}: OK\n' * 2)


def test_schema(run, tmp_path):
    code, out = run('schema')
    saved = tmp_path / 'schema.json'
    assert code == 0 and json.loads(out)['title'] == 'Configuration of paddleseg'
    assert run('schema', '--save', saved) == (0, f'wrote {saved}\n')
    assert saved.read_text(encoding='utf-8') == out


def test_wrong_options_are_user_errors(run, files):
    with pytest.raises(UserError, match=r'itres: unknown key, did you mean iters\?\n--opts loss: must be key.path='):
        run('show', '--config', files[1], '--opts', 'itres=5', 'loss')


def test_check_reports_wrong_options_with_the_rest(run, files):
    code, out = run('check', '--config', files[1], '--opts', 'model.num_clases=3')
    assert code == 1
    assert '--opts model.num_clases=3: model.num_clases: unknown key, did you mean model.num_classes?' in out
    assert 'child.yml:1: optimizer: missing' in out

"""The command: help at once and without Paddle, exit codes, and errors in one sentence."""
from __future__ import annotations

import io
import logging
import subprocess
import sys
import time

import pytest
from helpers import run_cli

from paddleseg_ext import __version__
from paddleseg_ext.cli import main as module
from paddleseg_ext.cli.main import INTERRUPTED, VERBS, main
from paddleseg_ext.errors import UserError

# What `--help` must not import: everything that is slow.
WITHOUT_HEAVY = '''
import sys
from paddleseg_ext.cli.main import main
try:
    main(sys.argv[1:])
finally:
    heavy = [name for name in ('paddle', 'paddleseg', 'numpy', 'cv2', 'matplotlib', 'yaml') if name in sys.modules]
    assert heavy == [], heavy
'''


@pytest.mark.parametrize('arguments', [['--help'], ['train', '--help'], ['--version']])
def test_help_is_quick_and_imports_nothing_heavy(arguments):
    command = [sys.executable, '-c', WITHOUT_HEAVY, *arguments]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        seconds.append(time.perf_counter() - start)
        assert result.returncode == 0, result.stderr
        if seconds[-1] < 1:
            return
    pytest.fail(f'{arguments} took {seconds} s')


def test_version_and_usage():
    result = run_cli('--version')
    assert (result.returncode, result.stdout) == (0, f'paddleseg_ext {__version__}\n')
    assert run_cli().returncode == 2
    result = run_cli('trian', '--config', 'x.yml')
    assert result.returncode == 2
    assert "argument VERB: invalid choice: 'trian' (choose from" in result.stderr


def test_every_verb_is_listed_with_what_it_does(capsys):
    with pytest.raises(SystemExit) as stop:
        main(['--help'])
    assert stop.value.code == 0
    listed = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()
              if line.startswith('    ') and line.split()[0] in VERBS}
    assert list(listed) == list(VERBS) and all(listed.values())


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, '--help'])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f'usage: paddleseg {verb}') and '==SUPPRESS==' not in text


def test_flags_of_train_are_those_of_paddleseg(capsys):
    with pytest.raises(SystemExit):
        main(['train', '--help'])
    text = capsys.readouterr().out
    # Those of PaddleSeg 2.8's tools/train.py that the issue names, spelled as there.
    for flag in ('config', 'do_eval', 'use_vdl', 'use_ema', 'save_interval', 'resume_model', 'iters', 'batch_size',
                 'learning_rate', 'num_workers', 'precision', 'amp_level', 'seed', 'device', 'opts', 'save_dir',
                 'keep_checkpoint_max', 'log_iters'):
        assert f'--{flag} ' in text, flag


def test_a_mistake_of_the_user_is_one_line(tmp_path):
    result = run_cli('train', '--config', tmp_path / 'none.yml', '--device', 'cpu')
    assert result.returncode == 1
    assert result.stderr.startswith('paddleseg train: error: ') and 'none.yml' in result.stderr
    assert 'Traceback' not in result.stderr and result.stdout == ''


def test_train_checks_the_configuration_first(tiny_tree, write_yaml, tmp_path, capsys):
    tiny_tree['model']['base_chanels'] = 8
    assert main(['train', '--config', str(write_yaml(tiny_tree)), '--save_dir', str(tmp_path / 'run')]) == 1
    assert 'base_chanels' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_a_device_that_is_not_there(tiny_tree, write_yaml, capsys):
    import paddle
    device = 'xpu' if not paddle.is_compiled_with_xpu() else 'mlu'
    assert main(['train', '--config', str(write_yaml(tiny_tree)), '--device', device]) == 1
    assert f'--device {device}: this paddlepaddle ({paddle.__version__}) does not know the device' in (
        capsys.readouterr().err)


def test_a_gpu_where_paddle_has_none(tiny_tree, write_yaml, capsys, monkeypatch):
    monkeypatch.setattr('paddle.is_compiled_with_cuda', lambda: False)
    assert main(['train', '--config', str(write_yaml(tiny_tree)), '--device', 'gpu']) == 1
    assert 'was built without CUDA; use --device cpu, or install paddlepaddle-gpu' in capsys.readouterr().err


@pytest.mark.parametrize('raised, code, text', [
    (UserError('wrong colour; choose red'), 1, 'paddleseg models: error: wrong colour; choose red\n'),
    (KeyboardInterrupt(), INTERRUPTED, 'paddleseg models: interrupted\n'),
    (KeyboardInterrupt('stopped at 7'), INTERRUPTED, 'paddleseg models: stopped at 7\n')])
def test_exit_codes(monkeypatch, capsys, raised, code, text):
    def run(_):
        raise raised

    monkeypatch.setattr('paddleseg_ext.cli.models.run', run)
    assert main(['models']) == code
    assert capsys.readouterr().err == text


def test_faults_of_ours_keep_their_traceback(monkeypatch):
    def run(_):
        raise ZeroDivisionError('ours')

    monkeypatch.setattr('paddleseg_ext.cli.models.run', run)
    with pytest.raises(ZeroDivisionError, match='ours'):
        main(['models'])


def test_a_reader_that_has_gone(monkeypatch):
    def run(_):
        raise BrokenPipeError

    monkeypatch.setattr('paddleseg_ext.cli.models.run', run)
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    assert main(['models']) == 1
    assert sys.stderr.closed


def test_the_log_goes_to_stderr_as_it_is_now(monkeypatch, capsys):
    log = logging.getLogger('paddleseg_ext')
    log.handlers.clear()
    module._start_log()
    module._start_log()
    assert len(log.handlers) == 1
    with monkeypatch.context() as patch:
        patch.setattr(sys, 'stderr', io.StringIO())
        log.info('here')
        assert sys.stderr.getvalue().endswith(' here\n')
    log.info('there')
    assert capsys.readouterr().err.endswith(' there\n')


def test_pretrained_weights_are_left_alone_where_model_path_gives_others(tiny_tree, write_yaml, tmp_path):
    from argparse import Namespace

    from paddleseg_ext.cli.flags import open_config
    tiny_tree['model']['pretrained'] = str(tmp_path / 'absent.pdparams')
    args = Namespace(config=str(write_yaml(tiny_tree)), opts=[], model_path='weights.pdparams')
    assert 'pretrained' not in open_config(args, paths=False).config.dic['model']
    args.model_path = None
    assert open_config(args, paths=False).config.dic['model']['pretrained'].endswith('absent.pdparams')


def test_a_missing_system_library_is_one_clear_message(monkeypatch, capsys):
    from paddleseg_ext.cli import doctor
    from paddleseg_ext.cli.main import main

    def fail(_args):
        raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')
    monkeypatch.setattr(doctor, 'run', fail)
    assert main(['doctor']) == 1
    message = capsys.readouterr().err
    assert 'paddleseg doctor: error: libGL.so.1' in message and 'apt-get install -y libgl1 libglib2.0-0' in message
    monkeypatch.setattr(doctor, 'run', lambda _args: exec('import nothing_of_this_name'))
    with pytest.raises(ImportError, match='nothing_of_this_name'):
        main(['doctor'])

"""Training on two processes of this CPU (gloo): the same as one process with twice the batch."""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_training import records, state

SECONDS = 180
SCRIPT = Path(__file__).parent / 'distributed_training.py'


@pytest.fixture
def plain_tree(tiny_tree):
    tiny_tree['model'] = {'type': 'PlainConvolutions', 'num_classes': 9}
    tiny_tree['loss']['coef'] = [1]
    tiny_tree['optimizer'] = {'type': 'SGD', 'momentum': 0.9, 'weight_decay': 1e-4}
    tiny_tree['lr_scheduler']['learning_rate'] = 0.1
    return tiny_tree


def launch(tmp_path, *arguments, ranks=2) -> subprocess.Popen:
    """Start the launcher with `tests/distributed_training.py` on free ports of this machine."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    command = [sys.executable, '-W', 'ignore', '-m', 'paddle.distributed.launch', '--nproc_per_node', str(ranks),
               '--master', f'127.0.0.1:{port}', '--log_dir', str(tmp_path / 'log'), str(SCRIPT), str(tmp_path)]
    paths = os.pathsep.join([str(SCRIPT.parents[1]), *filter(None, [os.environ.get('PYTHONPATH')])])
    return subprocess.Popen([*command, *map(str, arguments)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env={**os.environ, 'PYTHONPATH': paths, 'OMP_NUM_THREADS': '1'})


def flags(config, save_dir, *more):
    return ['train', '--config', config, '--save_dir', save_dir, '--device', 'cpu', '--log_iters', 1, *more]


def weights(tmp_path, rank):
    with np.load(tmp_path / f'rank_{rank}.npz') as found:
        return dict(found)


@pytest.mark.slow
def test_two_ranks_equal_one_with_twice_the_batch(plain_tree, write_yaml, tmp_path):
    config = write_yaml(plain_tree)
    process = launch(tmp_path, *flags(config, tmp_path / 'two', '--iters', 3, '--do_eval', '--seed', 4))
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    first, second = weights(tmp_path, 0), weights(tmp_path, 1)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert [record['iteration'] for record in records(tmp_path / 'two')] == [1, 2, 3, 3]  # one rank writes
    assert sorted(path.name for path in (tmp_path / 'two').iterdir()) == [
        'best_model', 'iter_3', 'loss.png', 'metrics.jsonl', 'miou.png']

    command = [sys.executable, '-W', 'ignore', str(SCRIPT), str(tmp_path)]
    command += map(str, flags(config, tmp_path / 'one', '--iters', 3, '--do_eval', '--seed', 4, '--batch_size', 4))
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS,
                            env={**os.environ, 'PYTHONPATH': str(SCRIPT.parents[1]), 'OMP_NUM_THREADS': '1'})
    assert result.returncode == 0, result.stderr
    for name, value in weights(tmp_path, 0).items():
        np.testing.assert_allclose(value, first[name], rtol=1e-4, atol=1e-6)
    ours, theirs = (records(tmp_path / name)[-1]['miou'] for name in ('one', 'two'))
    assert ours == pytest.approx(theirs, abs=2e-3)


@pytest.mark.slow
def test_a_mistake_ends_all_ranks(plain_tree, write_yaml, tmp_path):
    process = launch(tmp_path, *flags(write_yaml(plain_tree), tmp_path / 'run', '--batch_size', 5))
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    log = (tmp_path / 'log' / 'workerlog.0').read_text() + output
    assert 'paddleseg train: error: the training set has 8 samples, fewer than one batch of 5 on 2 devices' in log


@pytest.mark.slow
def test_sigterm_to_the_launcher_leaves_a_checkpoint(plain_tree, write_yaml, tmp_path):
    run = tmp_path / 'run'
    process = launch(tmp_path, *flags(write_yaml(plain_tree), run, '--iters', 1_000_000))
    end = time.monotonic() + SECONDS
    while not (run / 'metrics.jsonl').exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    # The launcher goes on to send SIGTERM until the ranks are gone, so their last words may be missing.
    assert 'SIGTERM: finishing this step and saving a checkpoint' in (tmp_path / 'log' / 'workerlog.0').read_text()
    [checkpoint] = run.glob('iter_*')
    assert f'iter_{state(checkpoint)["iteration"]}' == checkpoint.name

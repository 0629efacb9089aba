"""Checkpoints on disk: whole at every moment, complete, strict about what does not fit."""
from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_ext.checkpoints.reading import read_arrays, read_parameter_names
from paddleseg_ext.checkpoints.training_state import Progress, claim, find_checkpoint, restore, save, tidy
from paddleseg_ext.engine.average import MovingAverage
from paddleseg_ext.errors import UserError


def make(width=4, schedule=None):
    paddle.seed(3)
    model = nn.Sequential(nn.Conv2D(3, width, 3), nn.BatchNorm2D(width), nn.Conv2D(width, 2, 1))
    schedule = schedule or paddle.optimizer.lr.PolynomialDecay(0.1, 10)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=model.parameters(), weight_decay=0.01)
    return model, optimizer, schedule


def steps(model, optimizer, schedule, count):
    paddle.seed(8)
    for _ in range(count):
        model(paddle.randn([2, 3, 8, 8])).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()


def checkpoint(folder, iteration=5):
    """A folder that counts as a checkpoint, without being one."""
    folder.mkdir(parents=True)
    (folder / 'model.pdparams').write_bytes(pickle.dumps({}))
    (folder / 'state.json').write_text(json.dumps(asdict(Progress(iteration=iteration))))
    return folder


def test_what_is_saved_comes_back_under_other_names(tmp_path):
    model, optimizer, schedule = make()
    average = MovingAverage(model)
    steps(model, optimizer, schedule, 3)
    progress = Progress(iteration=3, seed=7, best_score=0.25, best_iteration=2, evaluated_iteration=2)
    save(tmp_path / 'iter_3', model, optimizer, progress, average=average.model)
    assert sorted(path.name for path in (tmp_path / 'iter_3').iterdir()) == [
        'model.pdopt', 'model.pdparams', 'model_training.pdparams', 'state.json']

    again, again_optimizer, again_schedule = make()
    assert {p.name for p in again.parameters()}.isdisjoint(p.name for p in model.parameters())
    again_average = MovingAverage(again)
    assert restore(tmp_path / 'iter_3', again, again_optimizer, average=again_average.model) == progress
    assert again_schedule.last_epoch == 3 and again_optimizer.get_lr() == optimizer.get_lr()
    steps(model, optimizer, schedule, 2)
    steps(again, again_optimizer, again_schedule, 2)
    for name, value in model.state_dict().items():
        assert np.array_equal(value.numpy(), again.state_dict()[name].numpy()), name
    for name, value in average.model.state_dict().items():
        assert np.array_equal(value.numpy(), again_average.model.state_dict()[name].numpy()), name


def test_operation_counters_are_not_saved(tmp_path):
    model, optimizer, _ = make()
    model[0].register_buffer('total_ops', paddle.zeros([1]))
    save(tmp_path / 'iter_1', model, optimizer, Progress(iteration=1))
    assert not [name for name in read_arrays(tmp_path / 'iter_1' / 'model.pdparams') if 'total' in name]


def test_parameter_names_stand_in_the_file(tmp_path):
    model, optimizer, _ = make()
    save(tmp_path / 'iter_1', model, optimizer, Progress(iteration=1))
    names = read_parameter_names(tmp_path / 'iter_1' / 'model.pdparams')
    assert names[model[0].weight.name] == '0.weight'


def test_an_average_starts_from_weights_that_had_none(tmp_path):
    model, optimizer, schedule = make()
    steps(model, optimizer, schedule, 1)
    save(tmp_path / 'iter_1', model, optimizer, Progress(iteration=1))
    again, again_optimizer, _ = make()
    average = MovingAverage(again)
    restore(tmp_path / 'iter_1', again, again_optimizer, average=average.model)
    assert np.array_equal(average.model[0].weight.numpy(), model[0].weight.numpy())


@pytest.mark.parametrize('text, message', [
    ('{"iteration": 3', r'state.json is damaged \(JSONDecodeError: .*\); resume from another checkpoint'),
    ('{"iteration": 3}', r"state.json is damaged \(KeyError: 'seed'\)")])
def test_damaged_state(tmp_path, text, message):
    model, optimizer, _ = make()
    save(tmp_path / 'iter_3', model, optimizer, Progress(iteration=3))
    (tmp_path / 'iter_3' / 'state.json').write_text(text)
    with pytest.raises(UserError, match=message):
        restore(tmp_path / 'iter_3', model, optimizer)


def test_folders_without_a_state_file(tmp_path):
    model, optimizer, _ = make()
    save(tmp_path / 'iter_30', model, optimizer, Progress(iteration=3))
    (tmp_path / 'iter_30' / 'state.json').unlink()
    assert restore(tmp_path / 'iter_30', model, optimizer) == Progress(iteration=30, seed=None)
    (tmp_path / 'iter_30').rename(tmp_path / 'best_model')
    with pytest.raises(UserError, match='has no state.json and is not named iter_N, so its iteration is unknown'):
        restore(tmp_path / 'best_model', model, optimizer)


def test_checkpoints_that_do_not_fit(tmp_path):
    model, optimizer, schedule = make()
    steps(model, optimizer, schedule, 1)
    folder = tmp_path / 'iter_1'
    save(folder, model, optimizer, Progress(iteration=1))
    wider, wider_optimizer, _ = make(width=5)
    with pytest.raises(UserError, match='of another shape'):
        restore(folder, wider, wider_optimizer)
    cosine = paddle.optimizer.lr.LinearWarmup(0.1, 2, 0., 0.1)
    decay = paddle.optimizer.lr.LinearWarmup(paddle.optimizer.lr.PolynomialDecay(0.1, 3), 2, 0., 0.1)
    other, other_optimizer, _ = make(schedule=cosine)
    restore(folder, other, other_optimizer)
    other, other_optimizer, _ = make(schedule=decay)
    with pytest.raises(UserError, match='another kind of learning-rate schedule .* resume with the configuration of'):
        restore(folder, other, other_optimizer)
    (folder / 'model.pdopt').unlink()
    with pytest.raises(UserError, match=r'weights file .*model.pdopt does not exist'):
        restore(folder, model, optimizer)


def test_optimizer_of_another_model(tmp_path):
    model, optimizer, schedule = make()
    steps(model, optimizer, schedule, 1)
    save(tmp_path / 'iter_1', model, optimizer, Progress(iteration=1))
    state = read_arrays(tmp_path / 'iter_1' / 'model.pdopt')
    state['conv2d_77777.w_0_moment1_0'] = np.zeros(3)
    paddle.save(state, str(tmp_path / 'iter_1' / 'model.pdopt'))
    with pytest.raises(UserError, match='conv2d_77777.w_0_moment1_0 belongs to no weight of Sequential; resume from a'):
        restore(tmp_path / 'iter_1', model, optimizer)


def test_finding_a_checkpoint(tmp_path, monkeypatch):
    assert find_checkpoint('auto', tmp_path / 'none') is None
    nine, ten = checkpoint(tmp_path / 'run' / 'iter_9'), checkpoint(tmp_path / 'run' / 'iter_10')
    best = checkpoint(tmp_path / 'run' / 'best_model')
    (tmp_path / 'run' / 'iter_11').mkdir()  # of a process that was killed before saving was atomic: no weights in it
    for leftover in ('.iter_12.new.abc', '.iter_12.old.abc', 'iter_12.bak', 'replaced_iter_13'):
        checkpoint(tmp_path / 'run' / leftover)
    run = tmp_path / 'run'
    assert find_checkpoint('auto', run) == ten
    assert find_checkpoint(str(run), tmp_path / 'other') == ten
    assert find_checkpoint(str(nine), tmp_path / 'other') == nine
    assert find_checkpoint('iter_9', run) == nine
    assert find_checkpoint('best_model', run) == best
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='--resume_model iter_8: no such folder; give an iter_N folder, best_model'):
        find_checkpoint('iter_8', run)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match=r'--resume_model empty: neither model.pdparams nor an iter_N folder is in it'):
        find_checkpoint('empty', run)


def test_tidying_keeps_the_newest(tmp_path):
    for iteration in (1, 2, 10, 9):
        checkpoint(tmp_path / f'iter_{iteration}', iteration)
    checkpoint(tmp_path / 'best_model')
    tidy(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['best_model', 'iter_10', 'iter_9']


def test_claiming_a_folder(tmp_path):
    first = checkpoint(tmp_path / 'run' / 'iter_1', 1)
    checkpoint(tmp_path / 'run' / 'iter_2', 2)
    checkpoint(tmp_path / 'run' / '.iter_3.new.abc', 3)
    claim(tmp_path / 'run', first, Progress(iteration=1))
    assert sorted(path.name for path in (tmp_path / 'run').iterdir()) == ['iter_1', 'replaced_iter_2']
    claim(tmp_path / 'other', first, Progress(iteration=1))
    assert list((tmp_path / 'other').iterdir()) == []
    checkpoint(tmp_path / 'third' / 'iter_7', 7)
    with pytest.raises(UserError, match=r'third already holds another training than .*iter_1; choose another'):
        claim(tmp_path / 'third', first, Progress(iteration=1))


SAVING_AND_KILLING = '''
import os, signal, sys, time
from pathlib import Path
from test_training_state import make
from paddleseg_ext.checkpoints.training_state import Progress, save
model, optimizer, _ = make(width=400)
for attempt in range(12):
    child = os.fork()
    if child == 0:
        for iteration in range(1, 10**6):
            save(Path(sys.argv[1]) / f'iter_{iteration % 3 + 1}', model, optimizer, Progress(iteration=iteration))
    time.sleep(0.05 + 0.017 * attempt)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
'''


def test_a_kill_never_leaves_a_broken_checkpoint(tmp_path):
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    subprocess.run([sys.executable, '-W', 'ignore', '-c', SAVING_AND_KILLING, str(tmp_path)], env=environment,
                   check=True, timeout=200)
    assert [path for path in tmp_path.iterdir() if path.name.startswith('.')]  # the kills did interrupt something
    model, optimizer, _ = make(width=400)
    for folder in tmp_path.glob('iter_*'):
        assert restore(folder, model, optimizer).iteration > 0
    claim(tmp_path, None, Progress())
    assert {path.name for path in tmp_path.iterdir()} == {'iter_1', 'iter_2', 'iter_3'}
    for folder in tmp_path.iterdir():
        assert restore(folder, model, optimizer).iteration > 0

"""A resumed training ends where an uninterrupted one does, bit by bit, whatever it resumes from."""
from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import paddle
import pytest
from helpers import run_cli
from tiny_training import arrays, assert_same_training, records, state, train_tree, training_tree

from paddleseg_ext.checkpoints.training_state import restore
from paddleseg_ext.config import load_config, make_builder
from paddleseg_ext.engine.interruption import Interrupted
from paddleseg_ext.engine.recording import Recorder
from paddleseg_ext.errors import UserError

OPTIONS = {'use_ema': True, 'do_eval': True, 'save_interval': 3, 'log_iters': 1}


@pytest.fixture(scope='module')
def tree(scenes):
    tree = training_tree(scenes)
    tree['iters'] = 6
    tree['model'].update(drop_path_rate=0.5, drop_rate=0.2)
    tree['lr_scheduler'].update(warmup_iters=2, warmup_start_lr=1e-5)
    return tree


@pytest.fixture(scope='module')
def straight(tree, tmp_path_factory):
    """A run folder of six uninterrupted iterations, with iter_3, iter_6 and best_model."""
    folder = tmp_path_factory.mktemp('straight') / 'run'
    train_tree(tree, folder, **OPTIONS)
    return folder


@pytest.fixture
def halfway(straight, tmp_path):
    """The run as it was after iteration 3, its metrics with a cut-off line."""
    folder = tmp_path / 'run'
    folder.mkdir()
    shutil.copytree(straight / 'iter_3', folder / 'iter_3')
    shutil.copytree(straight / 'iter_3', folder / 'best_model')
    (folder / 'metrics.jsonl').write_text((straight / 'metrics.jsonl').read_text()[:-30])
    return folder


@pytest.mark.parametrize('what', ['auto', 'iter_3', 'best_model', '{run}/iter_3', '{run}/best_model', '{run}'])
def test_resumed_equals_uninterrupted(tree, straight, halfway, what):
    progress = train_tree(tree, halfway, resume_model=what.format(run=halfway), **OPTIONS)
    assert_same_training(halfway / 'iter_6', straight / 'iter_6')
    assert progress.iteration == 6
    assert state(halfway / 'iter_6') == state(straight / 'iter_6')


def test_pretrained_weights_are_not_wanted_any_more(tree, straight, halfway):
    unreachable = {**tree, 'model': {**tree['model'], 'pretrained': 'timm/nobody.has_this'}}
    train_tree(unreachable, halfway, resume_model='auto', **OPTIONS)
    assert_same_training(halfway / 'iter_6', straight / 'iter_6')


def test_resumed_in_a_fresh_process_with_workers(tree, straight, halfway, write_yaml):
    result = run_cli('train', '--config', write_yaml(tree), '--save_dir', halfway, '--resume_model', 'auto', '--device',
                     'cpu', '--use_ema', '--do_eval', '--save_interval', 3, '--log_iters', 1, '--num_workers', 2)
    assert result.returncode == 0, result.stderr
    assert f'resumed from {halfway / "iter_3"} at iteration 3' in result.stderr
    assert_same_training(halfway / 'iter_6', straight / 'iter_6')


def test_dropping_and_augmenting_are_random_at_all(tree, straight, tmp_path):
    # The equalities above would mean nothing if the seed made no difference.
    train_tree(tree, tmp_path / 'run', seed=2, **OPTIONS)
    ours, theirs = arrays(tmp_path / 'run' / 'iter_3'), arrays(straight / 'iter_3')
    name = 'model_training.pdparams:seghead.conv2.weight'
    assert not np.array_equal(ours[name], theirs[name])


def test_metrics_go_on_without_repeats(tree, straight, halfway):
    train_tree(tree, halfway, resume_model='auto', **OPTIONS)
    seen, expected = records(halfway), records(straight)
    assert [record['iteration'] for record in seen] == [1, 2, 3, 3, 4, 5, 6, 6]
    for record, other in zip(seen, expected):
        assert record.get('loss') == other.get('loss') and record.get('miou') == other.get('miou')
        assert record.get('lr') == other.get('lr')


def test_best_score_is_kept(tree, halfway):
    for folder in (halfway / 'iter_3', halfway / 'best_model'):
        (folder / 'state.json').write_text(json.dumps({**state(folder), 'best_score': 0.99}))
    progress = train_tree(tree, halfway, resume_model='auto', **OPTIONS)
    assert (progress.best_score, progress.best_iteration) == (0.99, 3)
    assert state(halfway / 'best_model')['iteration'] == 3


def test_a_missed_validation_is_made_up_for_once(tree, halfway):
    file = halfway / 'iter_3' / 'state.json'
    before = state(halfway / 'iter_3')
    file.write_text(json.dumps({**before, 'evaluated_iteration': 0, 'best_score': -1., 'best_iteration': 0}))
    (halfway / 'metrics.jsonl').unlink()
    tree = {**tree, 'iters': 3}
    for _ in range(2):
        train_tree(tree, halfway, resume_model='auto', **OPTIONS)
        assert [record['miou'] for record in records(halfway)] == [before['best_score']]
    assert state(halfway / 'iter_3')['evaluated_iteration'] == 3


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupted_between_saves(tree, straight, tmp_path, monkeypatch, number):
    count, steps = Recorder.step, []

    def interrupting_step(self):
        count(self)
        steps.append(self)
        if len(steps) == 5:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, 'step', interrupting_step)
        with pytest.raises(Interrupted, match=r'stopped at iteration 5; continue with --resume_model auto --save_dir '):
            train_tree(tree, tmp_path / 'run', **OPTIONS)
    assert sorted(path.name for path in (tmp_path / 'run').glob('iter_*')) == ['iter_3', 'iter_5']
    train_tree(tree, tmp_path / 'run', resume_model='auto', **OPTIONS)
    assert_same_training(tmp_path / 'run' / 'iter_6', straight / 'iter_6')
    assert [record['iteration'] for record in records(tmp_path / 'run')] == [1, 2, 3, 3, 4, 5, 6, 6]


def test_interrupted_in_validation(tree, straight, tmp_path, monkeypatch):
    from paddleseg_ext.engine import train as module
    with monkeypatch.context() as patch:
        patch.setattr(module, 'evaluate', lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match='stopped at iteration 3'):
            train_tree(tree, tmp_path / 'run', **OPTIONS)
    assert state(tmp_path / 'run' / 'iter_3')['evaluated_iteration'] == 0
    train_tree(tree, tmp_path / 'run', resume_model='auto', **OPTIONS)
    assert_same_training(tmp_path / 'run' / 'iter_6', straight / 'iter_6')
    assert [record.get('miou') for record in records(tmp_path / 'run')] == [
        record.get('miou') for record in records(straight)]


def test_without_average_and_with_workers(tree, tmp_path):
    train_tree(tree, tmp_path / 'plain', save_interval=3)
    train_tree(tree, tmp_path / 'workers', save_interval=3, num_workers=2)
    assert_same_training(tmp_path / 'plain' / 'iter_6', tmp_path / 'workers' / 'iter_6')
    assert not (tmp_path / 'plain' / 'iter_6' / 'model_training.pdparams').exists()


@pytest.mark.parametrize('schedule', [
    {'type': 'ReduceOnPlateau', 'learning_rate': 0.001, 'patience': 0, 'factor': 0.5},
    {'type': 'CosineAnnealingDecay', 'learning_rate': 0.001, 'T_max': 6, 'warmup_iters': 2, 'warmup_start_lr': 1e-5}])
@pytest.mark.parametrize('optimizer', [{'type': 'SGD', 'momentum': 0.9, 'weight_decay': 1e-4}])
def test_other_schedules_and_optimizers_resume_too(tree, tmp_path, schedule, optimizer):
    tree = {**tree, 'lr_scheduler': schedule, 'optimizer': optimizer}
    train_tree(tree, tmp_path / 'straight', save_interval=3, log_iters=1)
    (tmp_path / 'resumed').mkdir()
    shutil.copytree(tmp_path / 'straight' / 'iter_3', tmp_path / 'resumed' / 'iter_3')
    train_tree(tree, tmp_path / 'resumed', save_interval=3, log_iters=1, resume_model='auto')
    assert_same_training(tmp_path / 'straight' / 'iter_6', tmp_path / 'resumed' / 'iter_6')
    rates = [record['lr'] for record in records(tmp_path / 'straight')]
    assert rates[3:] == [record['lr'] for record in records(tmp_path / 'resumed')]
    assert len(set(rates)) > 1


def test_a_checkpoint_of_paddleseg_resumes(tree, tmp_path):
    train_tree(tree, tmp_path / 'ours', save_interval=3)
    # What PaddleSeg's loop writes: paddle.save of both state dictionaries, with the names of a process of its own.
    builder = make_builder(load_config(tmp_path / 'ours.yml'))
    restore(tmp_path / 'ours' / 'iter_3', builder.model, builder.optimizer)
    folder = tmp_path / 'theirs' / 'iter_3'
    paddle.save(builder.model.state_dict(), str(folder / 'model.pdparams'))
    accumulators = builder.optimizer._accumulators_holder  # until the first step, Paddle keeps what was loaded there
    paddle.save({**accumulators, 'LR_Scheduler': builder.lr_scheduler.state_dict()}, str(folder / 'model.pdopt'))

    progress = train_tree(tree, tmp_path / 'theirs', save_interval=3, resume_model=str(folder))
    assert (progress.iteration, progress.seed) == (6, 1)
    assert_same_training(tmp_path / 'theirs' / 'iter_6', tmp_path / 'ours' / 'iter_6')


def test_resumed_into_another_folder(tree, straight, halfway, tmp_path):
    target = tmp_path / 'elsewhere'
    train_tree(tree, target, resume_model=str(halfway), **OPTIONS)
    assert_same_training(target / 'iter_6', straight / 'iter_6')
    assert (target / 'best_model' / 'model.pdparams').exists()
    with pytest.raises(UserError, match='already holds another training than'):
        train_tree(tree, target, resume_model=str(halfway), **OPTIONS)


def test_branching_off_sets_later_checkpoints_aside(tree, straight, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(straight, run)
    train_tree(tree, run, resume_model='iter_3', **{**OPTIONS, 'save_interval': 4})
    assert sorted(path.name for path in run.glob('*iter_*')) == ['iter_3', 'iter_4', 'iter_6', 'replaced_iter_6']
    assert_same_training(run / 'iter_6', straight / 'iter_6')
    assert state(run / 'iter_6')['best_iteration'] in (3, 4, 6)


def test_nothing_left_to_do(tree, straight, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(straight, run)
    before = (run / 'metrics.jsonl').read_text()
    assert train_tree(tree, run, resume_model='auto', **OPTIONS).iteration == 6
    assert (run / 'metrics.jsonl').read_text() == before
    assert_same_training(run / 'iter_6', straight / 'iter_6')


def test_auto_starts_where_there_is_nothing(tree, tmp_path):
    tree = {**tree, 'iters': 1}
    assert train_tree(tree, tmp_path / 'run', resume_model='auto').iteration == 1

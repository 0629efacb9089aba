"""Training: what a run leaves behind, the losses it combines, the schedules, and the moving average."""
from __future__ import annotations

import re

import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.models.losses import BCELoss, CrossEntropyLoss, DiceLoss, KLLoss, MixedLoss
from tiny_training import arrays, records, state, train_tree

from paddleseg_ext import compat
from paddleseg_ext.cli.main import main
from paddleseg_ext.engine.average import MovingAverage
from paddleseg_ext.engine.losses import compute_losses
from paddleseg_ext.engine.recording import Recorder, read_records


def test_what_a_run_leaves_behind(tiny_tree, tmp_path, write_yaml, capsys):
    run = tmp_path / 'run'
    code = main(['train', '--config', str(write_yaml(tiny_tree)), '--save_dir', str(run), '--device', 'cpu',
                 '--do_eval', '--use_vdl', '--use_ema', '--save_interval', '2', '--log_iters', '2', '--seed', '1'])
    output, errors = capsys.readouterr()
    assert code == 0
    names = {path.name for path in run.iterdir()}
    assert {'iter_2', 'iter_4', 'best_model', 'metrics.jsonl', 'loss.png', 'miou.png'} <= names
    assert any(name.startswith('vdlrecords.') and (run / name).stat().st_size > 100 for name in names)
    for picture in ('loss.png', 'miou.png'):
        assert (run / picture).read_bytes().startswith(b'\x89PNG')

    losses, scores = ([record for record in records(run) if name in record] for name in ('loss', 'miou'))
    assert [record['iteration'] for record in losses] == [record['iteration'] for record in scores] == [2, 4]
    for record in losses:
        assert len(record['losses']) == 2 and record['loss'] == pytest.approx(sum(record['losses']), rel=1e-5)
        assert record['images_per_second'] > 0
    assert losses[0]['lr'] == pytest.approx(0.001 * 0.75 ** 0.9)  # the rate of step 2, counted from 0
    assert {'miou', 'accuracy', 'kappa', 'mdice'} < set(scores[0])
    best = max(scores, key=lambda record: record['miou'])
    assert state(run / 'best_model')['best_score'] == best['miou']
    assert re.search(r'Best validation mIoU 0\.\d{4} at iteration [24]: .*best_model\n$', output)
    line = r'^\d\d:\d\d:\d\d iteration 2/4: loss \d\.\d{4}, lr \d\.\d{3}e-\d\d, \d+\.\d\d images/s, \d:\d\d:\d\d left$'
    assert re.search(line, errors, re.MULTILINE)
    assert re.search(r'iteration 4/4: validation miou 0\.\d{4}, accuracy 0\.\d{4}, kappa', errors)
    assert '\r' not in errors  # no progress bars where nobody watches


def test_the_same_seed_gives_the_same_weights_and_another_others(tiny_tree, tmp_path):
    tiny_tree['iters'] = 2
    for name, seed in (('first', 1), ('again', 1), ('other', 2)):
        train_tree(tiny_tree, tmp_path / name, seed=seed)
    first, again, other = (arrays(tmp_path / name / 'iter_2') for name in ('first', 'again', 'other'))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_the_seed_of_the_yaml_and_a_drawn_one(tiny_tree, tmp_path):
    tiny_tree['iters'] = 1
    assert 0 <= train_tree(tiny_tree, tmp_path / 'drawn', seed=None).seed < 2**31
    tiny_tree['seed'] = 5
    assert train_tree(tiny_tree, tmp_path / 'yaml', seed=None).seed == 5
    assert train_tree(tiny_tree, tmp_path / 'flag', seed=6).seed == 6
    assert state(tmp_path / 'yaml' / 'iter_1')['seed'] == 5


def test_old_checkpoints_are_tidied_away(tiny_tree, tmp_path):
    train_tree(tiny_tree, tmp_path / 'run', save_interval=1, keep_checkpoint_max=2)
    assert sorted(path.name for path in (tmp_path / 'run').glob('iter_*')) == ['iter_3', 'iter_4']


def test_warm_up_and_gradient_clipping(tiny_tree, tmp_path):
    tiny_tree['lr_scheduler'].update(warmup_iters=2, warmup_start_lr=1e-5)
    tiny_tree['optimizer'] = {'type': 'SGD', 'weight_decay': 0.,
                              'grad_clip_cfg': {'name': 'ClipGradByGlobalNorm', 'clip_norm': 1e-3}}
    train_tree(tiny_tree, tmp_path / 'run', save_interval=1, log_iters=1)
    rates = [record['lr'] for record in records(tmp_path / 'run')]
    assert rates == pytest.approx([1e-5, (1e-5 + 1e-3) / 2, 1e-3, 1e-3 * 0.5 ** 0.9])
    before, after = (arrays(tmp_path / 'run' / f'iter_{iteration}') for iteration in (2, 3))
    trained = [name for name in before if 'mean' not in name and 'variance' not in name]
    step = np.sqrt(sum(np.sum((after[name].astype('f8') - before[name]) ** 2) for name in trained
                       if name.startswith('model.')))
    assert step == pytest.approx(1e-3 * 1e-3, rel=0.02)  # learning rate times the clipped norm


def test_reduce_on_plateau(tiny_tree, tmp_path):
    tiny_tree['lr_scheduler'] = {'type': 'ReduceOnPlateau', 'learning_rate': 0.01, 'patience': 0, 'factor': 0.5,
                                 'threshold': 10., 'threshold_mode': 'abs'}
    train_tree(tiny_tree, tmp_path / 'run', log_iters=1)
    assert [record['lr'] for record in records(tmp_path / 'run')] == pytest.approx([0.01, 0.01, 0.005, 0.0025])


# NOTE: what Paddle says of its own code.
@pytest.mark.filterwarnings("ignore:Value do not have 'place' interface")
def test_training_through_a_static_graph(tiny_tree, tmp_path):
    tiny_tree['model']['drop_path_rate'] = 0.
    train_tree(tiny_tree, tmp_path / 'dynamic', log_iters=1)
    tiny_tree['to_static_training'] = True
    train_tree(tiny_tree, tmp_path / 'static', log_iters=1, do_eval=True)
    ours, theirs = ([record['loss'] for record in records(tmp_path / name) if 'loss' in record]
                    for name in ('static', 'dynamic'))
    assert ours == pytest.approx(theirs, rel=2e-3)


def test_a_mixed_loss_and_edges_in_yaml(tiny_tree, tmp_path):
    mixed = {'type': 'MixedLoss', 'coef': [0.7, 0.3], 'losses': [{'type': 'CrossEntropyLoss'}, {'type': 'DiceLoss'}]}
    tiny_tree['loss'] = {'types': [mixed, {'type': 'CrossEntropyLoss'}], 'coef': [1, 0.4]}
    tiny_tree['train_dataset']['edge'] = True
    train_tree(tiny_tree, tmp_path / 'run', log_iters=1)
    for record in records(tmp_path / 'run'):
        assert len(record['losses']) == 3 and record['loss'] == pytest.approx(sum(record['losses']), rel=1e-5)


@pytest.fixture
def batch():
    compat.apply()
    generator = np.random.default_rng(0)
    return {'label': paddle.to_tensor(generator.integers(0, 3, (2, 4, 4)).astype('uint8')),
            'edge': paddle.to_tensor(generator.integers(0, 2, (2, 4, 4)).astype('uint8'))}


def logits_of(*channels):
    generator = np.random.default_rng(1)
    return [paddle.to_tensor(generator.standard_normal((2, count, 4, 4)).astype('float32')) for count in channels]


def test_losses_are_weighted_and_in_the_order_of_the_outputs(batch):
    logits, loss = logits_of(3, 3), CrossEntropyLoss()
    terms = compute_losses(nn.Identity(), logits, batch, {'types': [loss, loss], 'coef': [1, 0.4]})
    expected = [float(loss(logits[0], batch['label'].astype('int64'))),
                0.4 * float(loss(logits[1], batch['label'].astype('int64')))]
    assert [float(term) for term in terms] == pytest.approx(expected)
    assert [term.shape for term in terms] == [[], []]


def test_a_mixed_loss_gives_one_term_for_each_of_its_losses(batch):
    [logit] = logits_of(3)
    label = batch['label'].astype('int64')
    mixed = MixedLoss([CrossEntropyLoss(), DiceLoss()], [0.7, 0.3])
    terms = compute_losses(nn.Identity(), [logit], batch, {'types': [mixed], 'coef': [2]})
    expected = [2 * 0.7 * float(CrossEntropyLoss()(logit, label)), 2 * 0.3 * float(DiceLoss()(logit, label))]
    assert [float(term) for term in terms] == pytest.approx(expected)


def test_an_edge_loss_looks_at_the_edges(batch):
    logits, loss = logits_of(1), BCELoss(edge_label=True)
    [term] = compute_losses(nn.Identity(), logits, batch, {'types': [loss], 'coef': [1]})
    assert float(term) == pytest.approx(float(loss(logits[0], batch['edge'].astype('int64'))))


def test_kl_divergence_compares_the_first_two_outputs(batch):
    logits = logits_of(3, 3)
    for logit in logits:
        logit.stop_gradient = False
    types = [KLLoss(), CrossEntropyLoss()]
    first, _ = compute_losses(nn.Identity(), logits, batch, {'types': types, 'coef': [0.5, 1]})
    assert float(first) == pytest.approx(0.5 * float(KLLoss()(logits[0], logits[1])))
    first.backward()
    assert logits[0].grad is not None and logits[1].grad is None


def test_a_model_may_compute_its_losses_itself(batch):
    class Own(nn.Layer):
        def loss_computation(self, logits, losses, data):
            assert data is batch and losses == {'own': 1}
            return [logits.mean().reshape([1]), logits.max()]

    logits = logits_of(3)[0]
    terms = compute_losses(Own(), logits, batch, {'own': 1})
    assert [term.shape for term in terms] == [[], []]
    assert float(terms[0]) == pytest.approx(float(logits.mean()))


def test_moving_average_against_numpy():
    paddle.seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1D(2))
    model[1].register_buffer('steps', paddle.zeros([1], 'int64'))
    average = MovingAverage(model, decay=0.6)
    expected = {name: value.numpy().astype('f8') for name, value in model.state_dict().items()}
    generator = np.random.default_rng(0)
    for step in range(1, 20):
        for value in model.state_dict().values():
            value.set_value(generator.uniform(0, 9, value.shape).astype(value.numpy().dtype))
        average.update(model, step)
        decay = min(0.6, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            new = value.numpy().astype('f8')
            expected[name] = new if name == '1.steps' else decay * expected[name] + (1 - decay) * new
    for name, value in average.model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-5)
    assert all(parameter.stop_gradient for parameter in average.model.parameters()) and not average.model.training
    with pytest.raises(ValueError, match=r'the decay of a moving average must lie in \[0, 1\), but is 1.0'):
        MovingAverage(model, decay=1.)


def test_records_survive_a_line_that_was_cut_short(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"iteration": 1, "loss": 2.0}\n{"iteration": 2, "lo')
    assert read_records(tmp_path) == [{'iteration': 1, 'loss': 2.0}]
    recorder = Recorder(tmp_path, start=1, stop=3, batch_size=2, active=True, use_vdl=False)
    recorder.step()
    recorder.losses(2, [3., 1., 2.], 0.1)
    recorder.close()
    assert [record['iteration'] for record in read_records(tmp_path)] == [1, 2]


def test_other_ranks_write_nothing(tmp_path):
    recorder = Recorder(tmp_path / 'run', start=0, stop=3, batch_size=2, active=False, use_vdl=True)
    recorder.step()
    recorder.losses(1, [3., 3.], 0.1)
    recorder.scores(1, {'miou': 0.5}, best=True)
    recorder.close()
    assert not (tmp_path / 'run').exists()

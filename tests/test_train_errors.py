"""What cannot be trained is refused at once, by name; nothing hangs and nothing bad is saved."""
from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import paddle
import pytest
from helpers import run_cli
from PIL import Image
from tiny_training import train_tree

from paddleseg_ext.checkpoints.reading import read_arrays
from paddleseg_ext.cli.main import main
from paddleseg_ext.engine import losses as losses_module
from paddleseg_ext.engine.loss_window import LossWindow
from paddleseg_ext.engine.train import TrainOptions
from paddleseg_ext.errors import UserError

SECONDS = 120


@pytest.fixture(autouse=True)
def no_hang():
    """Ends a test that hangs."""
    def ring(*_):
        raise TimeoutError(f'no end in {SECONDS} s')

    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def own_scenes(scenes, tmp_path, tiny_tree):
    """A copy of the data set to spoil; tiny_tree names it."""
    folder = tmp_path / 'scenes'
    shutil.copytree(scenes, folder)
    for name in ('train_dataset', 'val_dataset'):
        tiny_tree[name]['dataset_root'] = str(folder)
    return folder


def training_files(folder, line=0):
    image, label = (folder / 'train.txt').read_text().splitlines()[line].split()
    return folder / image, folder / label


def test_fewer_images_than_a_batch(tiny_tree, tmp_path):
    tiny_tree['batch_size'] = 9
    with pytest.raises(UserError, match='the training set has 8 samples, fewer than one batch of 9 on 1 device; lower'):
        train_tree(tiny_tree, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_no_images_at_all(tiny_tree, tmp_path, scenes):
    (tmp_path / 'empty.txt').write_text('')
    tiny_tree['train_dataset'] = {'type': 'Dataset', 'dataset_root': str(scenes), 'mode': 'train', 'num_classes': 9,
                                  'train_path': str(tmp_path / 'empty.txt'), 'transforms': []}
    del tiny_tree['val_dataset']
    with pytest.raises(UserError, match='train_dataset: The number of samples in train_dataset is 0'):
        train_tree(tiny_tree, tmp_path / 'run')


def test_validation_without_images(tiny_tree, tmp_path, scenes):
    (tmp_path / 'empty.txt').write_text('')
    common = {'type': 'Dataset', 'dataset_root': str(scenes), 'num_classes': 9, 'transforms': []}
    tiny_tree['train_dataset'] = {**common, 'mode': 'train', 'train_path': str(scenes / 'train.txt')}
    tiny_tree['val_dataset'] = {**common, 'mode': 'val', 'val_path': str(tmp_path / 'empty.txt')}
    with pytest.raises(UserError, match='--do_eval was given, but val_dataset has no samples'):
        train_tree(tiny_tree, tmp_path / 'run', do_eval=True)


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('damage', ['missing', 'corrupt', 'label missing'])
def test_files_that_cannot_be_read(own_scenes, tiny_tree, tmp_path, write_yaml, capsys, damage, num_workers):
    image, label = training_files(own_scenes)
    if damage == 'corrupt':
        image.write_bytes(b'no picture')
    else:
        (image if damage == 'missing' else label).unlink()
    code = main(['train', '--config', str(write_yaml(tiny_tree)), '--save_dir', str(tmp_path / 'run'), '--device',
                 'cpu', '--num_workers', str(num_workers), '--seed', '1'])
    errors = capsys.readouterr().err
    assert code == 1
    broken = label if damage == 'label missing' else image
    assert f'paddleseg train: error: training sample 0: {broken}: cannot be read as' in errors
    assert 'paddleseg data check' in errors and 'Traceback' not in errors


def test_a_broken_file_with_workers_in_a_process_of_its_own(own_scenes, tiny_tree, tmp_path, write_yaml):
    image, _ = training_files(own_scenes)
    image.write_bytes(b'no picture')
    result = run_cli('train', '--config', write_yaml(tiny_tree), '--save_dir', tmp_path / 'run', '--device', 'cpu',
                     '--num_workers', 2, timeout=SECONDS)
    assert result.returncode == 1
    assert str(image) in result.stderr.splitlines()[-1] and 'paddleseg train: error' in result.stderr.splitlines()[-1]
    assert 'Traceback' not in result.stderr and 'SystemError' not in result.stderr


@pytest.mark.parametrize('num_workers', [0, 2])
def test_label_ids_that_are_no_class(own_scenes, tiny_tree, tmp_path, num_workers):
    _, label = training_files(own_scenes)
    pixels = np.array(Image.open(label))
    pixels[:] = 9
    Image.fromarray(pixels).save(label)
    with pytest.raises(UserError, match=rf'{label.name}: label ids that are no class: 9; ids go from 0 to 8'):
        train_tree(tiny_tree, tmp_path / 'run', num_workers=num_workers)


def test_images_of_different_sizes(own_scenes, tiny_tree, tmp_path):
    for file in training_files(own_scenes):
        picture = Image.open(file)
        picture.crop((0, 0, 64, 64)).save(file)
    tiny_tree['train_dataset']['transforms'] = tiny_tree['train_dataset']['transforms'][1:]
    with pytest.raises(UserError, match=r'images of one batch differ in shape .*\[\(3, 64, 64\), \(3, 64, 96\)\]; add'):
        train_tree(tiny_tree, tmp_path / 'run')


def test_wrong_number_of_losses(tiny_tree, tmp_path):
    tiny_tree['loss']['coef'] = [1, 0.4, 0.4]
    tiny_tree['loss']['types'] = [{'type': 'CrossEntropyLoss'}] * 3
    text = (r'RTFormer returns 2 outputs in training, but the loss section has 3 \(coef: \[1, 0.4, 0.4\]\); give one '
            r'coefficient for each output, for example coef: \[1, 1\]')
    with pytest.raises(UserError, match=text):
        train_tree(tiny_tree, tmp_path / 'run')


def test_a_learning_rate_that_explodes(tiny_tree, tmp_path):
    tiny_tree['lr_scheduler']['learning_rate'] = 1e30
    tiny_tree['iters'] = 20
    with pytest.raises(UserError, match=r'not finite \(NaN or infinite\).*Nothing after the last checkpoint was saved'):
        train_tree(tiny_tree, tmp_path / 'run', save_interval=1)
    for folder in (tmp_path / 'run').glob('iter_*'):
        assert all(np.isfinite(value).all() for value in read_arrays(folder / 'model.pdparams').values())


def test_a_loss_that_is_not_finite(tiny_tree, tmp_path, monkeypatch):
    original, calls = losses_module.compute_losses, []

    def spoiled(*arguments):
        calls.append(1)
        terms = original(*arguments)
        return [term * float('nan') for term in terms] if len(calls) == 3 else terms

    monkeypatch.setattr('paddleseg_ext.engine.train.compute_losses', spoiled)
    with pytest.raises(UserError, match=r'the loss is not finite \(NaN or infinite\) at iteration 3. Nothing'):
        train_tree(tiny_tree, tmp_path / 'run', save_interval=1)
    assert sorted(path.name for path in (tmp_path / 'run').glob('iter_*')) == ['iter_1', 'iter_2']


def test_a_step_that_spoils_the_weights_is_not_saved(tiny_tree, tmp_path):
    tiny_tree['lr_scheduler'].update(learning_rate=1e300)
    tiny_tree['iters'] = 1
    with pytest.raises(UserError, match=r'the weights are not finite \(NaN or infinite\) after iteration 1, conv1'):
        train_tree(tiny_tree, tmp_path / 'run')
    assert not list((tmp_path / 'run').glob('iter_*'))


def test_a_loss_scaler_may_skip_single_steps():
    window = LossWindow(scaled=True)
    good, bad = paddle.to_tensor(1.), paddle.to_tensor(float('inf'))
    for iteration in range(100):
        loss = bad if iteration % 20 else good
        window.add(loss, [loss], iteration)
    window.read()
    window.check()
    window.add(good, [good], 100)
    for iteration in range(20):
        window.add(bad, [bad], iteration)
    with pytest.raises(UserError, match='the loss is not finite'):
        window.add(bad, [bad], 20)


def test_a_folder_that_holds_a_training(tiny_tree, tmp_path):
    tiny_tree['iters'] = 1
    train_tree(tiny_tree, tmp_path / 'run')
    with pytest.raises(UserError, match=r'run already holds a training \(iter_1\); continue it with --resume'):
        train_tree(tiny_tree, tmp_path / 'run')
    tiny_tree['iters'] = 2
    train_tree(tiny_tree, tmp_path / 'run', resume_model='auto')
    tiny_tree['iters'] = 1
    with pytest.raises(UserError, match='iter_2 is at iteration 2, after the 1 iterations asked for; raise --iters'):
        train_tree(tiny_tree, tmp_path / 'run', resume_model='auto')


def test_resuming_from_nowhere(tiny_tree, tmp_path):
    with pytest.raises(UserError, match='--resume_model nowhere: no such folder; give an iter_N folder'):
        train_tree(tiny_tree, tmp_path / 'run', resume_model='nowhere')


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_mixed_precision_on_the_cpu(tiny_tree, tmp_path, precision):
    with pytest.raises(UserError, match=f'--precision {precision} changes nothing on the CPU, where Paddle has'):
        train_tree(tiny_tree, tmp_path / 'run', precision=precision)


@pytest.mark.parametrize('options, text', [
    ({'save_interval': 0}, 'save_interval must be at least 1, but is 0'),
    ({'log_iters': -1}, 'log_iters must be at least 1, but is -1'),
    ({'keep_checkpoint_max': 0}, 'keep_checkpoint_max must be at least 1, but is 0'),
    ({'num_workers': -2}, 'num_workers must be 0 or more, but is -2'),
    ({'seed': -1}, 'seed must be 0 or more, but is -1'),
    ({'ema_decay': 1.}, r'ema_decay must lie in \[0, 1\), but is 1.0'),
    ({'precision': 'fp8'}, "precision 'fp8' is unknown; choose fp32, fp16 or bf16"),
    ({'amp_level': 'O3'}, "amp_level 'O3' is unknown; choose one of O1, O2"),
    ({'save_dir': __file__}, 'test_train_errors.py is a file; choose a folder')])
def test_options_out_of_range(options, text):
    with pytest.raises(UserError, match=text):
        TrainOptions(**options)


def test_losses_that_cannot_be_minimised():
    def compute(logits, losses, batch=None, model=None):
        return losses_module.compute_losses(model or paddle.nn.Identity(), logits, batch or {'label': label}, losses)

    label = paddle.zeros([1, 2, 2], 'uint8')
    logits = [paddle.zeros([1, 3, 2, 2])]
    unreduced = paddle.nn.CrossEntropyLoss(axis=1, reduction='none')
    with pytest.raises(UserError, match=r'CrossEntropyLoss gives a loss of shape \[1, 2, 2\]; what is minimised'):
        compute(logits, {'types': [unreduced], 'coef': [1]})
    with pytest.raises(UserError, match='Identity returns a Tensor in training; a model for training returns a list'):
        compute(logits[0], {'types': [unreduced], 'coef': [1]})
    from paddleseg.models.losses import BCELoss, KLLoss
    with pytest.raises(UserError, match='KLLoss compares the first two outputs of a model'):
        compute(logits, {'types': [KLLoss()], 'coef': [1]})
    with pytest.raises(UserError, match='BCELoss with edge_label needs edges; set `edge: true` in train_dataset'):
        compute(logits, {'types': [BCELoss(edge_label=True)], 'coef': [1]})


SLOW_TRAINING = '''
import sys, time
from paddleseg_ext.engine.sampling import SeededDataset
read = SeededDataset.__getitem__
SeededDataset.__getitem__ = lambda self, key: (time.sleep(0.05), read(self, key))[1]
from paddleseg_ext.cli.main import main
sys.exit(main(sys.argv[1:]))
'''


@pytest.mark.parametrize('number, num_workers', [(signal.SIGINT, 2), (signal.SIGTERM, 0)])
def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(tiny_tree, tmp_path, write_yaml, number, num_workers):
    run = tmp_path / 'run'
    process = _start(write_yaml(tiny_tree), run, '--iters', '10000', '--num_workers', str(num_workers))
    _wait_for_steps(process, run)
    process.send_signal(number)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, errors
    [checkpoint] = run.glob('iter_*')
    iteration = int(checkpoint.name[5:])
    assert errors.count(f'{number.name}: finishing this step and saving a checkpoint') == 1
    assert errors.splitlines()[-1] == (f'paddleseg train: stopped at iteration {iteration}; continue with '
                                       f'--resume_model auto --save_dir {run}')
    assert 'Traceback' not in errors and 'SystemError' not in errors
    assert main(['train', '--config', str(write_yaml(tiny_tree)), '--save_dir', str(run), '--resume_model', 'auto',
                 '--iters', str(iteration + 1), '--device', 'cpu']) == 0
    assert (run / f'iter_{iteration + 1}').is_dir()


def test_a_second_ctrl_c_stops_at_once(tiny_tree, tmp_path, write_yaml):
    run = tmp_path / 'run'
    tiny_tree['batch_size'] = 8
    process = _start(write_yaml(tiny_tree), run, '--iters', '10000', sleep=0.5)
    _wait_for_steps(process, run)
    time.sleep(0.5)  # the eight samples of the next step take four seconds
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, errors
    assert not list(run.glob('iter_*'))
    assert errors.splitlines()[-1] == 'paddleseg train: interrupted'


def _start(config, save_dir, *flags, sleep=0.05):
    command = [sys.executable, '-W', 'ignore', '-c', SLOW_TRAINING.replace('0.05', str(sleep)), 'train', '--config',
               str(config), '--save_dir', str(save_dir), '--device', 'cpu', '--log_iters', '1', *flags]
    return subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _wait_for_steps(process, run):
    while not (run / 'metrics.jsonl').exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)

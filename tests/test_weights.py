"""Reading weights files safely and loading them strictly."""
from __future__ import annotations

import io
import logging
import os
import pickle
import re

import numpy as np
import paddle
import pytest
from cases import CASES
from paddle import nn
from safetensors.numpy import save_file

from paddleseg_ext.checkpoints.reading import read_arrays
from paddleseg_ext.checkpoints.weights import fill, load_weights, weights_file
from paddleseg_ext.errors import UserError


class Small(nn.Layer):
    """Two convolutions under the names `body` and `head`."""

    def __init__(self, classes=4):
        super().__init__()
        self.body = nn.Conv2D(3, 6, 1)
        self.head = nn.Conv2D(6, classes, 1)


def arrays_of(model, *, seed=0) -> dict:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=tensor.shape).astype('float32') for name, tensor in model.state_dict().items()}


def assert_holds(model, arrays) -> None:
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), arrays[name], err_msg=name)


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


# Reading

def test_reads_what_paddle_saves(tmp_path):
    model = Small()
    path = tmp_path / 'model.pdparams'
    paddle.save(model.state_dict(), str(path))
    arrays = read_arrays(path)
    assert set(arrays) == set(model.state_dict()), 'the table of parameter names is not a weight'
    assert all(type(array) is np.ndarray for array in arrays.values())
    assert_holds(model, arrays)


def test_reads_an_optimizers_state(tmp_path):
    model = Small()
    schedule = paddle.optimizer.lr.PolynomialDecay(0.1, 10)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=model.parameters())
    model.head(model.body(paddle.ones([1, 3, 2, 2]))).sum().backward()
    optimizer.step()
    path = tmp_path / 'model.pdopt'
    paddle.save(optimizer.state_dict(), str(path))
    state = read_arrays(path)
    assert state['LR_Scheduler']['last_epoch'] == 0
    moments = [value for name, value in state.items() if 'moment1' in name]
    assert len(moments) == 4 and all(isinstance(moment, np.ndarray) for moment in moments)


def as_numpy_2(content: bytes) -> bytes:
    """The same pickle as NumPy 2 writes it, where `numpy.core` is called `numpy._core`."""
    assert b'numpy.core.multiarray' in content
    return content.replace(b'numpy.core.multiarray', b'numpy._core.multiarray')


@pytest.mark.parametrize('protocol', [2, 4])
def test_reads_pickles_of_numpy_2(tmp_path, protocol):
    # NOTE: protocol 4 writes the length of each name before it, so its names are renamed while they are pickled.
    array = np.arange(6, dtype='float32').reshape(2, 3)
    content = pickle.dumps({'w': array, 'step': np.float64(3.5)}, protocol=protocol)
    if protocol == 2:
        content = as_numpy_2(content)
    else:
        name = b'numpy.core.multiarray'
        content = content.replace(b'\x8c' + bytes([len(name)]) + name, b'\x8c' + bytes([len(name) + 1]) +
                                  b'numpy._core.multiarray')
        frame = content.index(b'\x95')
        length = int.from_bytes(content[frame + 1:frame + 9], 'little')
        grown = content.count(b'numpy._core')
        content = content[:frame + 1] + (length + grown).to_bytes(8, 'little') + content[frame + 9:]
    assert b'numpy._core' in content
    path = tmp_path / 'model.pdparams'
    path.write_bytes(content)
    arrays = read_arrays(path)
    np.testing.assert_array_equal(arrays['w'], array)
    assert arrays['step'] == 3.5


class Runs:
    """Pickles as a call of `function` with `arguments`: what an attacker would write."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(('function', 'named'), [(os.system, 'posix.system'), (eval, '__builtin__.eval'),
                                                 (np.load, 'numpy.load')])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, function, named):
    witness = tmp_path / 'it_ran'
    arguments = {'posix.system': f'touch {witness}',
                 '__builtin__.eval': f'open({str(witness)!r}, "w").close()',
                 'numpy.load': str(witness)}
    content = {'w': np.ones(2, 'float32'), 'x': Runs(function, arguments[named])}
    path = written(tmp_path / 'model.pdparams', content)
    with pytest.raises(UserError, match=re.escape(f'was refused: it asks to load {named}. Only arrays')):
        read_arrays(path)
    assert not witness.exists()
    if named != 'numpy.load':  # the file is armed: an ordinary unpickler does run it
        pickle.loads(path.read_bytes())
        assert witness.exists()


def test_a_class_hidden_behind_an_attribute_is_refused(tmp_path):
    # Protocol 4 lets a name have dots: `numpy` → `ndarray.tofile`, which would write a file.
    content = b'\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.'
    path = tmp_path / 'model.pdparams'
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape('it asks to load numpy.ndarray.tofile')):
        read_arrays(path)


def test_arrays_of_objects_cannot_smuggle_code_either(tmp_path):
    witness = tmp_path / 'it_ran'
    smuggled = np.array([Runs(os.system, f'touch {witness}')], dtype=object)
    path = written(tmp_path / 'model.pdparams', {'w': smuggled})
    with pytest.raises(UserError, match=re.escape('it asks to load posix.system')):
        read_arrays(path)
    assert not witness.exists()


def test_every_truncation_is_a_user_error(tmp_path):
    whole = io.BytesIO()
    paddle.save(Small().state_dict(), whole)
    content = whole.getvalue()
    path = tmp_path / 'model.pdparams'
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=re.escape(str(path))):
            read_arrays(path)


def test_an_empty_file_says_so(tmp_path):
    path = tmp_path / 'model.pdparams'
    path.write_bytes(b'')
    text = r'model\.pdparams \(0 bytes\) is empty, cut short or no Paddle weights file: .*copy or download it again'
    with pytest.raises(UserError, match=text):
        read_arrays(path)


@pytest.mark.parametrize('content', [b'PK\x03\x04 a zip archive', b'<!DOCTYPE html><html>404</html>', b'\x00' * 64,
                                     'Grüße aus München\n'.encode(), b'\x89HDF\r\n\x1a\n'])
def test_other_files_are_user_errors(tmp_path, content):
    path = tmp_path / 'model.pdparams'
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        read_arrays(path)


def test_random_damage_is_a_user_error_or_a_dictionary(tmp_path):
    whole = io.BytesIO()
    paddle.save(Small().state_dict(), whole)
    path = tmp_path / 'model.pdparams'
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole.getvalue())
        for position in generator.integers(0, len(damaged), 3):
            damaged[position] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            content = read_arrays(path)
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert isinstance(content, dict)


def test_no_dictionary_is_a_user_error(tmp_path):
    path = written(tmp_path / 'model.pdparams', [np.ones(2)])
    with pytest.raises(UserError, match='model.pdparams holds a list, but weights are a dictionary of arrays'):
        read_arrays(path)


def test_an_absent_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r'weights file .*nothing\.pdparams does not exist'):
        read_arrays(tmp_path / 'nothing.pdparams')


# Loading

def test_loads_every_weight_and_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO, 'paddleseg_ext')
    model = Small()
    arrays = arrays_of(model)
    path = written(tmp_path / 'model.pdparams', arrays)
    load_weights(model, path)
    assert_holds(model, arrays)
    assert caplog.messages == [f'Small: 4 of 4 weights loaded from {path}']


def refusal(model, arrays, **arguments) -> str:
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        fill(model, arrays, source='some.pdparams', **arguments)
    assert_holds(model, before)  # a refused file changes nothing
    return str(caught.value)


def test_missing_unknown_and_misshapen_weights_are_all_named_at_once():
    model = Small()
    arrays = arrays_of(model)
    del arrays['body.bias']
    arrays['neck.weight'] = np.ones((2, 2), 'float32')
    arrays['head.weight'] = np.ones((9, 6, 1, 1), 'float32')
    text = refusal(model, arrays)
    assert text.splitlines()[0] == 'some.pdparams does not fit Small: 2 of 4 weights match.'
    assert '1 missing in it: body.bias' in text
    assert '1 unknown to the model: neck.weight' in text
    assert '1 of another shape: head.weight [9, 6, 1, 1] (model: [4, 6, 1, 1])' in text
    assert 'Give the weights that belong to this configuration' in text


@pytest.mark.parametrize(('value', 'named'), [
    (np.zeros((4, 6, 1, 1), 'int64'), 'array of int64'), (np.zeros((4, 6, 1, 1), 'uint16'), 'array of uint16'),
    (np.zeros((4, 6, 1, 1), object), 'array of object'), ('text', 'str'), (3., 'float')])
def test_what_is_no_array_of_real_numbers_is_refused(value, named):
    text = refusal(Small(), {**arrays_of(Small()), 'head.weight': value}, may_start_fresh=['head.*'])
    assert f'1 of another type: head.weight ({named})' in text


@pytest.mark.parametrize('precision', ['float16', 'float64'])
def test_other_precisions_are_converted(precision):
    model = Small()
    arrays = {name: array.astype(precision) for name, array in arrays_of(model).items()}
    fill(model, arrays, source='some.pdparams')
    assert model.head.weight.dtype == paddle.float32
    assert_holds(model, {name: array.astype('float32') for name, array in arrays.items()})


def test_many_missing_weights_are_counted():
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(10)])
    text = refusal(model, {})
    assert 'does not fit Sequential: 0 of 20 weights match.' in text
    assert '20 missing in it: 0.weight, ' in text and 'and 12 more' in text


def test_a_fresh_part_may_be_missing_or_misshapen_but_no_other(caplog):
    caplog.set_level(logging.INFO, 'paddleseg_ext')
    model = Small()
    initial = model.head.weight.numpy().copy()
    arrays = arrays_of(model)
    del arrays['head.bias']
    arrays['head.weight'] = np.ones((9, 6, 1, 1), 'float32')
    fill(model, arrays, source='some.pdparams', may_start_fresh=['head.*'])
    np.testing.assert_array_equal(model.body.weight.numpy(), arrays['body.weight'])
    np.testing.assert_array_equal(model.head.weight.numpy(), initial)
    assert caplog.messages == ['Small: 2 of 4 weights loaded from some.pdparams; started fresh: head.bias, head.weight']
    del arrays['body.bias']
    assert '1 missing in it: body.bias' in refusal(model, arrays, may_start_fresh=['head.*'])


def test_leftovers_that_were_announced_are_named(caplog):
    caplog.set_level(logging.INFO, 'paddleseg_ext')
    model = Small()
    arrays = {**arrays_of(model), 'fc.weight': np.ones(3), 'neck.weight': np.ones(3)}
    assert '1 unknown to the model: neck.weight' in refusal(model, arrays, may_be_left=['fc.*'])
    del arrays['neck.weight']
    fill(model, arrays, source='some.pdparams', may_be_left=['fc.*'])
    assert caplog.messages == ['Small: 4 of 4 weights loaded from some.pdparams; left over: fc.weight']


def test_flop_counters_are_ignored_on_both_sides():
    model = Small()
    arrays = arrays_of(model)
    fill(model, {**arrays, 'total_ops': np.ones(1), 'body.total_params': np.ones(1)}, source='some.pdparams')
    assert_holds(model, arrays)
    for layer in (model, model.body):
        layer.register_buffer('total_ops', paddle.zeros([1]))
    fill(model, arrays, source='some.pdparams')
    np.testing.assert_array_equal(model.head.bias.numpy(), arrays['head.bias'])


# Folders

@pytest.mark.parametrize('named', ['iter_40', 'run', 'run/best_model', 'run/best_model/model.pdparams'])
def test_folders_that_hold_weights(tmp_path, named):
    model = Small()
    arrays = arrays_of(model)
    for folder in ('iter_40', 'run/best_model'):
        (tmp_path / folder).mkdir(parents=True)
        written(tmp_path / folder / 'model.pdparams', arrays)
    load_weights(model, tmp_path / named)
    assert_holds(model, arrays)


def test_a_folder_without_weights_and_an_absent_path_are_user_errors(tmp_path):
    advice = r'; give a \.pdparams file, a checkpoint folder \(iter_N, best_model\) or a run folder\.'
    with pytest.raises(UserError, match=r'has no model\.pdparams' + advice):
        weights_file(tmp_path)
    with pytest.raises(UserError, match='does not exist' + advice):
        weights_file(tmp_path / 'nothing')


# Pretrained

def test_pretrained_with_another_number_of_classes_starts_its_heads_fresh(tmp_path, caplog):
    caplog.set_level(logging.INFO, 'paddleseg_ext')
    case = CASES[0]
    source = case.build(seed=1)
    path = tmp_path / 'model.pdparams'
    paddle.save(source.state_dict(), str(path))
    caplog.clear()
    model = case.model_class(num_classes=7, pretrained=str(path), **case.arguments)
    [line] = caplog.messages
    assert f'weights loaded from {path} (RTFormer of PaddleSeg or of paddleseg_ext); started fresh: ' in line
    fresh = line.split('started fresh: ')[1].split(', ')
    assert sorted(fresh) == ['seghead.conv2.bias', 'seghead.conv2.weight', 'seghead_extra.conv2.bias',
                             'seghead_extra.conv2.weight']
    for name, tensor in model.state_dict().items():
        if name not in fresh:
            np.testing.assert_array_equal(tensor.numpy(), source.state_dict()[name].numpy(), err_msg=name)


def test_pretrained_backbone_alone_and_a_classifiers_leftovers(tmp_path, caplog):
    """A released ImageNet backbone has no DAPPM and no heads, and may carry its classifier."""
    caplog.set_level(logging.INFO, 'paddleseg_ext')
    case = CASES[0]
    source = case.build(seed=1)
    trunk = {name: tensor.numpy() for name, tensor in source.state_dict().items()
             if name.split('.')[0] not in ('spp', 'seghead', 'seghead_extra')}
    path = written(tmp_path / 'backbone.pdparams', {**trunk, 'fc.weight': np.ones((4, 4), 'float32')})
    model = case.model_class(num_classes=5, pretrained=str(path), **case.arguments)
    assert 'started fresh: spp.' in caplog.text
    assert '1 not used, because the classifier of the ImageNet training: fc.weight' in caplog.text
    np.testing.assert_array_equal(model.layer5.attn_l.k.numpy(), trunk['layer5.attn_l.k'])


def test_pretrained_of_another_width_is_refused(tmp_path):
    case = CASES[0]
    path = tmp_path / 'model.pdparams'
    paddle.save(case.build().state_dict(), str(path))
    with pytest.raises(UserError, match=r'does not fit RTFormer: .* weights match\.\n  \d+ of another shape: conv1'):
        case.model_class(num_classes=5, pretrained=str(path), **{**case.arguments, 'base_channels': 16})


def test_weights_of_safetensors_are_loaded_and_those_of_pytorch_are_not(tmp_path):
    model = Small()
    arrays = arrays_of(model)
    path = tmp_path / 'model.safetensors'
    save_file(arrays, path, metadata={'format': 'pd'})
    load_weights(model, path)
    assert_holds(model, arrays)
    save_file(arrays, path, metadata={'format': 'pt'})
    text = f'{path} holds weights of PyTorch; convert them first: paddleseg convert {path} model.pdparams'
    with pytest.raises(UserError, match=re.escape(text)):
        load_weights(model, path)


def test_an_auxiliary_head_that_the_model_lacks_is_dropped(tmp_path, caplog):
    caplog.set_level(logging.INFO, 'paddleseg_ext')
    case = CASES[0]
    path = tmp_path / 'model.pdparams'
    paddle.save(case.build().state_dict(), str(path))
    case.model_class(num_classes=5, pretrained=str(path), use_aux_head=False, **case.arguments)
    assert 'not used, because the model has no seghead_extra: seghead_extra.bn1.weight' in caplog.text


def test_a_run_without_validation_gives_its_newest_checkpoint(tmp_path):
    for number in (2, 10):
        written(tmp_path / f'iter_{number}' / 'model.pdparams', {})
    assert weights_file(tmp_path) == tmp_path / 'iter_10' / 'model.pdparams'
    written(tmp_path / 'best_model' / 'model.pdparams', {})
    assert weights_file(tmp_path) == tmp_path / 'best_model' / 'model.pdparams'

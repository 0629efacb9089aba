"""Reading files of PyTorch with PyTorch: every container, precision and wrapper, and nothing that could run code."""
from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from paddleseg_ext.checkpoints.reading import read_weights
from paddleseg_ext.errors import UserError
from scripts.make_checkpoint_fixtures import FOLDER, WITNESS

PLAIN = {'fc.weight': [[0, 1, 2], [3, 4, 5]], 'fc.bias': [0.5, -1], 'bn.running_mean': [1, 2],
         'bn.num_batches_tracked': 7}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Armed files would leave their witness here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(('name', 'part'), [
    ('plain.pth', ''), ('plain_legacy.pth', ''), ('half.pth', ''), ('mmsegmentation.pth', 'state_dict'),
    ('average.pth', 'state_dict_ema'), ('wrapped.pth', 'model')])
def test_weights_are_found_and_are_float32(name, part):
    weights = read_weights(FOLDER / name)
    assert (weights.layout, weights.part) == ('torch', part)
    assert set(weights.arrays) == set(PLAIN)
    for key, value in PLAIN.items():
        np.testing.assert_array_equal(weights.arrays[key], value)
        assert weights.arrays[key].dtype == ('int64' if key == 'bn.num_batches_tracked' else 'float32')


def test_the_name_of_the_file_says_nothing(here):
    for name in ('model.pdparams', 'model.safetensors', 'model'):
        (here / name).write_bytes((FOLDER / 'plain.pth').read_bytes())
        assert set(read_weights(here / name).arrays) == set(PLAIN)


def test_parameters_that_want_gradients_are_arrays_too():
    arrays = read_weights(FOLDER / 'parameters.pth').arrays
    assert {name: type(array) for name, array in arrays.items()} == {'weight': np.ndarray, 'bias': np.ndarray}


@pytest.mark.parametrize('name', ['armed.pth', 'armed_legacy.pth'])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(here, name):
    with pytest.raises(UserError, match=rf'{name} was refused: it asks to load [a-z_.]*eval\. Only tensors'):
        read_weights(FOLDER / name)
    assert os.listdir(here) == []
    torch.load(FOLDER / name, weights_only=False)  # the file is armed: this does run it
    assert os.listdir(here) == [WITNESS]


def test_a_training_checkpoint_of_mmengine_is_refused_with_the_remedy():
    with pytest.raises(UserError, match=re.escape('training.pth was refused: it asks to load '
                                                  'mmengine.logging.history_buffer.HistoryBuffer.')) as caught:
        read_weights(FOLDER / 'training.pth')
    assert str(caught.value).endswith('on a machine where you trust the file, save only its weights: torch.save('
                                      'torch.load(FILE, weights_only=False)["state_dict"], NEW_FILE).')


def test_its_remedy_works(here, monkeypatch):
    from scripts.make_checkpoint_fixtures import history_buffer
    history_buffer()  # mmengine, as far as the file asks for it
    torch.save(torch.load(FOLDER / 'training.pth', weights_only=False)['state_dict'], here / 'new.pth')
    assert set(read_weights(here / 'new.pth').arrays) == set(PLAIN)


@pytest.mark.filterwarnings('ignore:.*torch.load.* received a zip file that looks like a TorchScript archive')
def test_a_program_is_no_weights():
    with pytest.raises(UserError, match=r'program\.pt was refused: it is a TorchScript program, not weights; save the '
                                        r'state_dict\(\)'):
        read_weights(FOLDER / 'program.pt')


def test_a_list_is_no_state_dictionary():
    with pytest.raises(UserError, match='holds a list, but weights are a dictionary of tensors'):
        read_weights(FOLDER / 'list.pth')


@pytest.mark.parametrize('name', ['plain.pth', 'plain_legacy.pth'])
def test_every_truncation_is_a_user_error(here, name):
    content = (FOLDER / name).read_bytes()
    path = Path('cut.pth')
    for length in range(0, len(content) - 1, 29):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r'cut\.pth'):
            read_weights(path)


@pytest.mark.parametrize('name', ['plain.pth', 'plain_legacy.pth'])
def test_random_damage_is_a_user_error_or_a_dictionary(name):
    content = (FOLDER / name).read_bytes()
    path = Path('damaged.pth')
    generator = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        for position in generator.integers(0, len(damaged), 3):
            damaged[position] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert isinstance(read_weights(path).arrays, dict)
        except UserError as error:
            assert 'damaged.pth' in str(error)

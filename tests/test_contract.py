"""What every segmentor of ours must do, over the one table of `cases.py`."""
from __future__ import annotations

import numpy as np
import paddle
import pytest
from cases import CASES, CLASSES, images, relative_difference

from paddleseg_ext.checkpoints.weights import load_weights
from paddleseg_ext.export.program import save_program
from paddleseg_ext.inference.paddle_runner import PaddleOptions, PaddleRunner

over_cases = pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
# Sides beside the minimum: odd ones, one divisible by 32, one much longer than the other.
SIZES = ((47, 33), (96, 64), (33, 129))


def sizes(case):
    return ((case.minimum, case.minimum), *SIZES)


def logits(model, maps: np.ndarray) -> np.ndarray:
    with paddle.no_grad():
        outputs = model(paddle.to_tensor(maps))
    assert isinstance(outputs, list) and len(outputs) == 1
    return outputs[0].numpy()


def test_names_of_the_cases_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)


@over_cases
def test_any_size_and_batch(case):
    model = case.build()
    for size in sizes(case):
        maps = images(3, size)
        batch = logits(model, maps)
        assert batch.shape == (3, CLASSES, *size) and batch.dtype == np.float32
        assert np.isfinite(batch).all()
        alone = logits(model, maps[1:2])
        assert relative_difference(alone, batch[1:2]) < 1e-5, f'an image depends on its batch at {size}'


@over_cases
def test_smaller_images_are_refused_with_the_minimum(case):
    model = case.build()
    least = case.minimum
    for size in ((least - 1, least), (least, least - 1)):
        with pytest.raises(ValueError, match=f'at least {least}×{least} pixels, but got {size[0]}×{size[1]}'):
            model(paddle.to_tensor(images(1, size)))


@over_cases
@pytest.mark.parametrize('channels', [1, 4])
def test_other_channel_counts(case, channels):
    model = case.build(in_channels=channels)
    maps = images(2, (64, 64), channels=channels)
    before = logits(model, maps)
    assert before.shape == (2, CLASSES, 64, 64)
    maps[:, -1] += images(2, (64, 64), channels=1, seed=9)[:, 0]
    assert relative_difference(logits(model, maps), before) > 1e-3, 'the last channel is not looked at'


@over_cases
def test_outputs_in_training_and_in_evaluation(case):
    model = case.build()
    maps = paddle.to_tensor(images(2, (64, 96)))
    model.train()
    outputs = model(maps)
    assert len(outputs) == case.outputs == case.model_class.training_outputs(case.arguments)
    assert all(output.shape == [2, CLASSES, 64, 96] for output in outputs)
    model.eval()
    assert len(model(maps)) == 1


@over_cases
@pytest.mark.parametrize('batch', [1, 2])
def test_every_parameter_gets_a_gradient(case, batch):
    model = case.build()
    model.train()
    # NOTE: squares, because the sum of a batch norm's outputs does not depend on its input.
    sum((output**2).mean() for output in model(paddle.to_tensor(images(batch, (64, 96))))).backward()
    # NOTE: the running statistics of batch norm are parameters for Paddle, and all that is not trained.
    for name, parameter in model.named_parameters():
        assert parameter.stop_gradient == name.endswith(('._mean', '._variance')), f'{name}: only statistics are frozen'
        if parameter.stop_gradient:
            continue
        assert parameter.grad is not None, f'{name} gets no gradient'
        assert np.isfinite(parameter.grad.numpy()).all(), name


@over_cases
def test_images_and_weights_are_left_as_they_were(case):
    model = case.build()
    maps = images(1, (64, 64))
    given = paddle.to_tensor(maps)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    model(given)
    np.testing.assert_array_equal(given.numpy(), maps)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name], err_msg=name)


@over_cases
def test_state_dict_round_trip(case, tmp_path):
    model, other = case.build(seed=0), case.build(seed=1)
    maps = images(1, (64, 64))
    assert relative_difference(logits(other, maps), logits(model, maps)) > 1e-2
    paddle.save(model.state_dict(), str(tmp_path / 'model.pdparams'))
    load_weights(other, tmp_path)
    np.testing.assert_array_equal(logits(other, maps), logits(model, maps))


@over_cases
def test_double_precision_goes_through(case):
    model = case.build()
    maps = images(1, (64, 64))
    single = logits(model, maps)
    model.to(dtype='float64')
    double = logits(model, maps.astype('float64'))
    assert double.dtype == np.float64
    assert relative_difference(single, double) < 1e-5


@over_cases
def test_one_export_serves_every_batch_and_size(case, tmp_path):
    model = case.build()
    program = save_program(model, tmp_path / 'model', output_op='none', input_shape=[-1, 3, -1, -1])
    runner = PaddleRunner(program, tmp_path / 'model.pdiparams', PaddleOptions(cpu_threads=1))
    for size in sizes(case):
        for batch in (1, 3):
            maps = images(batch, size)
            assert relative_difference(runner.run(maps), logits(model, maps)) < 1e-4, (batch, size)
    runner.close()

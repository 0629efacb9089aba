"""One export of RTFormer serves every batch and every size, through Paddle Inference."""
from __future__ import annotations

import paddle
import pytest
from cases import images, relative_difference, set_visible_weights

from paddleseg_ext.export.paddle_export import export_model
from paddleseg_ext.export.program import save_program
from paddleseg_ext.inference.paddle_runner import PaddleOptions, PaddleRunner
from paddleseg_ext.models.rtformer import RTFormer

SIZES = ((512, 1024), (200, 333), (64, 96), (33, 47))
NARROW = {'num_classes': 5, 'base_channels': 8, 'head_channels': 16, 'spp_channels': 8}
MODELS = {
    'slim_cityscapes': {'num_classes': 19, 'base_channels': 32, 'head_channels': 64},
    'narrow_one_injection': {**NARROW, 'use_injection': [True, False]},
}


def visible(**arguments):
    model = RTFormer(**arguments)
    set_visible_weights(model)
    model.eval()
    return model


@pytest.fixture(scope='module', params=list(MODELS))
def model_and_runner(request, tmp_path_factory):
    model = visible(**MODELS[request.param])
    program = save_program(model, tmp_path_factory.mktemp('export') / 'model', output_op='none',
                           input_shape=[-1, 3, -1, -1])
    runner = PaddleRunner(program, program.with_suffix('.pdiparams'), PaddleOptions(cpu_threads=1))
    yield model, runner
    runner.close()


@pytest.mark.parametrize('size', SIZES, ids=lambda size: f'{size[0]}x{size[1]}')
@pytest.mark.parametrize('batch', [1, 2, 5])
def test_program_equals_the_model(model_and_runner, batch, size):
    model, runner = model_and_runner
    maps = images(batch, size)
    with paddle.no_grad():
        expected = model(paddle.to_tensor(maps))[0].numpy()
    assert relative_difference(runner.run(maps), expected) <= 1e-4


def test_smallest_size(model_and_runner):
    model, runner = model_and_runner
    maps = images(1, (32, 32))
    assert relative_difference(runner.run(maps), model(paddle.to_tensor(maps))[0].numpy()) <= 1e-4


def exported_values(folder) -> int:
    return sum(tensor.size for tensor in paddle.jit.load(str(folder / 'model')).state_dict().values())


def test_auxiliary_head_is_not_exported(tmp_path):
    tree = {'model': {'type': 'RTFormer', **NARROW},
            'val_dataset': {'type': 'SyntheticScenes', 'num_classes': 5, 'mode': 'val',
                            'transforms': [{'type': 'Normalize'}]}}
    sizes = {}
    for name, use_aux_head in (('with', True), ('without', False)):
        model = visible(**NARROW, use_aux_head=use_aux_head)
        export_model(model, tmp_path / name, tree=tree, output_op='none', verification=False)
        sizes[name] = (tmp_path / name / 'model.pdiparams').stat().st_size
        # The file holds the trunk and the main head, value for value: no weight of seghead_extra among them.
        assert exported_values(tmp_path / name) == sum(tensor.size for part, tensor in model.state_dict().items()
                                                       if not part.startswith('seghead_extra'))
    assert abs(sizes['with'] - sizes['without']) < 4096  # the file repeats the tensors' generated names

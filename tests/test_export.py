"""Export: what is written, that it computes what the model computes, and every refusal."""
from __future__ import annotations

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

from paddleseg_ext.engine.forward import predict_logits
from paddleseg_ext.environment import onednn_inference_works
from paddleseg_ext.errors import UserError
from paddleseg_ext.export.paddle_export import export_model
from paddleseg_ext.export.program import full_input_shape, save_program
from paddleseg_ext.export.verify import TOLERANCE, compare, sample_images
from paddleseg_ext.inference.deploy import Deployment
from paddleseg_ext.inference.paddle_runner import PaddleOptions, PaddleRunner, open_runner
from paddleseg_ext.models.rtformer import RTFormer

NORMALIZE = {'type': 'Normalize'}
TREE = {'model': {'num_classes': 5}, 'val_dataset': {'type': 'Dataset', 'transforms': [NORMALIZE], 'ignore_index': 254}}
TINY = {'base_channels': 8, 'head_channels': 16, 'spp_channels': 16, 'num_classes': 5}


class TinySegmentor(nn.Layer):
    """A convolution and a head; the auxiliary head runs in evaluation too, as in some of PaddleSeg's models."""

    def __init__(self, middle=None, data_format='NCHW'):
        super().__init__()
        self.data_format = data_format
        self.stem = nn.Conv2D(3, 8, 3, padding=1, data_format=data_format)
        self.head = nn.Conv2D(8, 5, 1, data_format=data_format)
        self.auxiliary = nn.Sequential(nn.BatchNorm2D(8, data_format=data_format),
                                       nn.Conv2D(8, 5, 1, data_format=data_format))
        self.unused = nn.Linear(300, 300)
        self.middle = middle

    def forward(self, x):
        features = nn.functional.relu(self.stem(x))
        if self.middle is not None:
            features = self.middle(features)
        return [self.head(features), self.auxiliary(features)]


def stored_parameters(folder):
    """The parameters that the exported weights hold, by the names Paddle gives them."""
    return paddle.jit.load(str(folder / 'model')).state_dict()


def relative_difference(actual, expected):
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.fixture(scope='module')
def rtformer():
    paddle.seed(3)
    model = RTFormer(**TINY)
    model.train()
    return model


@pytest.fixture(scope='module')
def report(rtformer, tmp_path_factory):
    return export_model(rtformer, tmp_path_factory.mktemp('export') / 'rtformer', tree=TREE, output_op='none')


def test_folder_holds_what_deploy_yaml_names(report):
    section = yaml.safe_load((report.folder / 'deploy.yaml').read_text())['Deploy']
    assert section['input_shape'] == [-1, 3, -1, -1]
    assert (section['output_op'], section['output_dtype'], section['input_name']) == ('none', 'float32', 'x')
    assert section['transforms'] == [NORMALIZE]
    assert (section['num_classes'], section['ignore_index'], section['in_channels']) == (5, 254, 3)
    assert len(section['class_names']) == len(section['colors']) == 5
    assert section['versions']['paddlepaddle'] == paddle.__version__
    assert section.get('onednn') is (True if onednn_inference_works(paddle.__version__) else None)
    assert {section['model'], section['params'], 'deploy.yaml'} <= {path.name for path in report.folder.iterdir()}
    deployment = Deployment.read(report.folder)
    assert deployment.model.suffix == ('.json' if paddle.__version__ >= '3' else '.pdmodel')
    assert [path.name for path in report.folder.parent.iterdir()] == [report.folder.name]  # no temporary folder left


def test_minimum_size_is_written_where_the_model_has_one(report, tmp_path):
    assert Deployment.read(report.folder).minimum_size == RTFormer.minimum_size == 32
    export_model(TinySegmentor(), tmp_path / 'out', tree=TREE, verification=False)
    assert 'minimum_size' not in yaml.safe_load((tmp_path / 'out' / 'deploy.yaml').read_text())['Deploy']


def test_paddleseg_reads_our_deploy_yaml(report):
    from paddleseg.deploy.infer import DeployConfig
    config = DeployConfig(str(report.folder / 'deploy.yaml'))
    assert config.model == str(Deployment.read(report.folder).model)
    assert len(config.transforms.transforms) == 1


def test_report_shows_files_and_differences(report):
    assert len(report.comparisons) == 6 and all(one.passed for one in report.comparisons)
    text = report.text()
    assert 'model.pdiparams' in text and '2×3×75×101' in text and 'FAILED' not in text


@pytest.mark.parametrize('shape', [(1, 3, 512, 1024), (2, 3, 200, 333), (5, 3, 64, 96), (1, 3, 33, 47), (5, 3, 33, 47)])
def test_any_batch_and_size(rtformer, report, shape):
    images = sample_images(shape, seed=1)
    rtformer.eval()
    expected = predict_logits(rtformer, images).numpy()
    runner = open_runner(Deployment.read(report.folder))
    assert relative_difference(runner.run(images), expected) <= TOLERANCE
    runner.close()
    with pytest.raises(ValueError, match='This runner is closed'):
        runner.run(images)


def test_slim_at_its_real_width(tmp_path):
    paddle.seed(4)
    model = RTFormer(num_classes=19, base_channels=32, head_channels=64)
    model.eval()
    program = save_program(model, tmp_path / 'model', output_op='none', input_shape=[-1, 3, -1, -1])
    images = sample_images((1, 3, 512, 1024))
    runner = PaddleRunner(program, tmp_path / 'model.pdiparams')
    assert relative_difference(runner.run(images), predict_logits(model, images).numpy()) <= TOLERANCE
    runner.close()


def test_auxiliary_weights_of_rtformer_are_gone(rtformer, report):
    main = [name for name in rtformer.state_dict() if not name.startswith('seghead_extra')]
    assert len(main) < len(rtformer.state_dict())
    assert len(stored_parameters(report.folder)) <= len(main)
    values = sum(rtformer.state_dict()[name].size for name in main)
    assert report.files['model.pdiparams'] < 4 * values + 64 * len(main)


def test_weights_that_no_output_needs_are_gone(tmp_path):
    model = TinySegmentor()
    export_model(model, tmp_path / 'out', tree=TREE, verification=False)
    kept = stored_parameters(tmp_path / 'out')
    assert len(kept) == 4  # stem and head, weight and bias each


def test_model_is_left_as_it_was(tmp_path):
    model = TinySegmentor()
    model.train()
    model.head.eval()
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    export_model(model, tmp_path / 'out', tree=TREE, output_op='softmax')
    assert model.training and model.stem.training and not model.head.training
    assert all('forward' not in vars(layer) for layer in model.sublayers(include_self=True))
    assert all(np.array_equal(before[name], value.numpy()) for name, value in model.state_dict().items())


def test_outputs_of_argmax_and_softmax(tmp_path):
    model = TinySegmentor()
    model.eval()
    images = sample_images((2, 3, 40, 56))
    logits = predict_logits(model, images)
    expected = {'argmax': logits.argmax(axis=1).numpy().astype(np.int32),
                'softmax': nn.functional.softmax(logits, axis=1).numpy()}
    for output_op, wanted in expected.items():
        export_model(model, tmp_path / output_op, tree=TREE, output_op=output_op)
        output = open_runner(Deployment.read(tmp_path / output_op)).run(images)
        assert output.dtype == wanted.dtype and output.shape == wanted.shape
        np.testing.assert_allclose(output, wanted, atol=1e-5)


def test_channels_last_models_take_channels_first(tmp_path):
    model = TinySegmentor(data_format='NHWC')
    report = export_model(model, tmp_path / 'out', tree=TREE, output_op='none')
    assert all(one.passed and not one.skipped for one in report.comparisons)


def test_fixed_shape(tmp_path):
    report = export_model(TinySegmentor(), tmp_path / 'out', tree=TREE, input_shape=[1, 3, 32, 48])
    assert [one.shape for one in report.comparisons] == [(1, 3, 32, 48)]
    assert Deployment.read(report.folder).input_shape == (1, 3, 32, 48)


class FlattenedBatch(nn.Layer):
    """Mends a size into the program: what is traced with an unknown batch is wrong for any but one."""

    def forward(self, x):
        return x * 0.1 * float(len(x.shape)) if not paddle.in_dynamic_mode() else x


class RefusesUnknown(nn.Layer):
    def forward(self, x):
        if x.shape[2] < 1:
            raise ValueError('height must be positive')
        return x


class EvenOnly(nn.Layer):
    def forward(self, x):
        if paddle.in_dynamic_mode() and x.shape[2] % 2:
            raise ValueError('height must be even')
        return x


class AlignedCorners(nn.Layer):
    def forward(self, x):
        small = nn.functional.avg_pool2d(x, 2)
        return nn.functional.interpolate(small, paddle.shape(x)[2:], mode='bilinear', align_corners=True)


def test_difference_is_refused_and_the_old_export_stays(tmp_path):
    export_model(TinySegmentor(), tmp_path / 'out', tree=TREE)
    before = (tmp_path / 'out' / 'deploy.yaml').read_bytes()
    with pytest.raises(UserError, match=r'differs from TinySegmentor by more than 0.0001[\s\S]*FAILED'
                                        r'[\s\S]*--input_shape'):
        export_model(TinySegmentor(FlattenedBatch()), tmp_path / 'out', tree=TREE)
    assert (tmp_path / 'out' / 'deploy.yaml').read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_model_that_needs_known_sizes(tmp_path):
    with pytest.raises(UserError, match=r'TinySegmentor cannot be exported for the input shape \[-1, 3, -1, -1\]'
                                        r'[\s\S]*height must be positive[\s\S]*--input_shape 1 3 512 1024'):
        export_model(TinySegmentor(RefusesUnknown()), tmp_path / 'out', tree=TREE)
    assert not list(tmp_path.iterdir())
    export_model(TinySegmentor(RefusesUnknown()), tmp_path / 'out', tree=TREE, input_shape=[-1, 3, 64, 64])


def test_size_that_the_model_refuses_is_listed(tmp_path):
    report = export_model(TinySegmentor(EvenOnly()), tmp_path / 'out', tree=TREE)
    assert [bool(one.skipped) for one in report.comparisons] == [False, False, True, True, False, False]
    assert 'height must be even' in report.text()


@pytest.mark.skipif(not paddle.__version__.startswith('3.2'), reason='measured on Paddle 3.2')
def test_program_that_onednn_computes_wrongly_runs_without(tmp_path):
    report = export_model(TinySegmentor(AlignedCorners()), tmp_path / 'out', tree=TREE, output_op='none')
    deployment = Deployment.read(report.folder)
    assert not deployment.onednn and 'oneDNN does not compute this program rightly' in report.text()
    assert 'oneDNN off' in open_runner(deployment).description
    with pytest.raises(UserError, match='--enable_mkldnn True: .* was exported with onednn: false'):
        open_runner(deployment, PaddleOptions(onednn=True))


def test_notes_on_what_infer_does_differently(tmp_path):
    resize = {'type': 'Resize', 'target_size': [32, 32]}
    tree = {**TREE, 'val_dataset': {'transforms': [resize, NORMALIZE]}, 'test_config': {'is_slide': True}}
    text = export_model(TinySegmentor(), tmp_path / 'out', tree=tree, verification=False).text()
    for part in ('the transforms resize (Resize)', 'sliding window', 'not verified'):
        assert part in text


@pytest.mark.parametrize('arguments, text', [
    ({'output_op': 'max'}, '--output_op max: expected one of argmax, softmax, none'),
    ({'input_shape': [1, 3, 64]}, '--input_shape 1 3 64: four numbers are needed'),
    ({'input_shape': [0, 3, 64, 64]}, '--input_shape 0 3 64 64: a side is -1'),
    ({'tree': {'model': {'num_classes': 5}}}, 'no val_dataset.transforms'),
    ({'tree': {'val_dataset': {'transforms': []}}}, 'num_classes is in neither the model nor the data sets'),
    ({'tree': {'model': {'num_classes': 5}, 'val_dataset': {'transforms': [{'type': 'Normalise'}]}}},
     'names no registered transform'),
])
def test_wrong_arguments(tmp_path, arguments, text):
    with pytest.raises(UserError, match=text):
        export_model(TinySegmentor(), tmp_path / 'out', **{'tree': TREE, **arguments})
    assert not list(tmp_path.iterdir())


def test_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / 'best_model').mkdir()
    with pytest.raises(UserError, match=r'holds other files \(best_model\)'):
        export_model(TinySegmentor(), tmp_path, tree=TREE)
    assert (tmp_path / 'best_model').is_dir()


def test_full_input_shape():
    assert full_input_shape(None, 4) == [-1, 4, -1, -1]
    assert full_input_shape([None, -1, 64, None], 3) == [-1, 3, 64, -1]


def test_comparison_excuses_ties_only():
    expected = np.zeros((1, 2, 1, 3), np.float32)
    expected[0, :, 0] = [[1.0, 0.5, 0.2], [-1.0, 0.49999, 0.1]]
    labels = np.array([[[0, 1, 1]]])
    one = compare(expected, expected, labels, (1, 3, 1, 3))
    assert (one.changed, one.wrong, one.passed) == (2, 1, False)
    assert compare(expected, expected, np.array([[[0, 1, 0]]]), (1, 3, 1, 3)).passed
    assert not compare(np.full_like(expected, np.nan), expected, np.array([[[0, 0, 0]]]), (1, 3, 1, 3)).passed




def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    import re
    from pathlib import Path

    import cv2

    from paddleseg_ext.cli.main import main
    from paddleseg_ext.config import load_config

    readme = (Path(__file__).parents[1] / 'deploy' / 'README.md').read_text()
    with_package, bare = re.findall(r'```python\n(.*?)```', readme, re.DOTALL)
    transforms = load_config('rtformer_slim_camvid_480x360_30k').tree['val_dataset']['transforms']
    assert transforms == [{'type': 'Normalize', 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}]
    tree = {'model': {'num_classes': 5}, 'val_dataset': {'transforms': transforms}}
    export_model(TinySegmentor(), tmp_path / 'deploy_camvid', tree=tree, verification=False)
    for name in ('a.jpg', 'b.jpg'):
        cv2.imwrite(str(tmp_path / name), np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(with_package, scope)
    if paddle.__version__ < '3':
        bare = bare.replace('model.json', 'model.pdmodel').replace('config.enable_new_ir', '# ')
        bare = bare.replace('config.enable_new_executor', '# ')
    exec(bare, scope)
    assert main(['infer', '--config', 'deploy_camvid', '--image_path', 'a.jpg', '--save_dir', 'result']) == 0
    inferred = cv2.imread('result/label_ids/a.png', cv2.IMREAD_GRAYSCALE)
    assert len(np.unique(inferred)) > 1
    np.testing.assert_array_equal(scope['labels'], inferred)
    np.testing.assert_array_equal(scope['masks'][0], inferred)

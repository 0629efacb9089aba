"""`paddleseg export` and `paddleseg infer` as one runs them after another."""
from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.cli.main import main


@pytest.fixture(scope='module')
def pictures(scenes, tmp_path_factory):
    """Folder with the validation images of the embedded data, a smaller one in a sub-folder, and a list with labels."""
    folder = tmp_path_factory.mktemp('pictures')
    (folder / 'sub').mkdir()
    lines = []
    for index, line in enumerate((scenes / 'val.txt').read_text().split('\n')[:3]):
        name = f'{"" if index else "sub/"}{index}'
        for part, suffix in zip(line.split(), ('', '_label')):
            with Image.open(scenes / part) as picture:
                size = picture.size if index else (64, 48)
                picture.resize(size, Image.NEAREST).save(folder / f'{name}{suffix}.png')
        lines.append(f'{name}.png {name}_label.png')
    (folder / 'list.txt').write_text('\n'.join(lines))
    return folder


@pytest.fixture
def exported(tiny_tree, write_yaml, tmp_path):
    """(config, weights, export folder, printed text) of a tiny RTFormer with random weights."""
    import paddle

    import paddleseg_ext.components  # noqa: F401 NOTE: imported for registering RTFormer.
    from paddleseg_ext import config

    path = write_yaml(tiny_tree)
    paddle.seed(11)
    model = config.make_builder(config.load_config(path)).model
    paddle.save(model.state_dict(), str(tmp_path / 'weights.pdparams'))
    return path, tmp_path / 'weights.pdparams', tmp_path / 'deploy'


def read_ids(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def run_export(exported, *flags):
    path, weights, folder = exported
    return main(['export', '--config', str(path), '--model_path', str(weights), '--save_dir', str(folder), *flags])


def test_infer_gives_the_masks_of_predict(exported, pictures, tmp_path, capsys):
    path, weights, folder = exported
    assert run_export(exported) == 0
    text = capsys.readouterr().out
    assert f'Next: paddleseg infer --config {folder / "deploy.yaml"}' in text and 'max rel' in text
    listing = str(pictures / 'list.txt')
    assert main(['infer', '--config', str(folder / 'deploy.yaml'), '--image_path', listing, '--batch_size', '2',
                 '--save_dir', str(tmp_path / 'inferred'), '--evaluate', '--warmup', '1']) == 0
    text = capsys.readouterr().out
    for part in ('3 of 3 images done', 'latency, batch 2', 'p99 ms', 'mIoU', 'oneDNN'):
        assert part in text
    assert main(['predict', '--config', str(path), '--model_path', str(weights), '--image_path', listing,
                 '--save_dir', str(tmp_path / 'predicted')]) == 0
    for name in ('sub/0.png', '1.png', '2.png'):
        inferred, predicted = (read_ids(tmp_path / kind / 'label_ids' / name) for kind in ('inferred', 'predicted'))
        # NOTE: oneDNN rounds differently in the last bits, so a pixel whose two best classes tie may differ.
        assert inferred.shape == predicted.shape and (inferred == predicted).mean() > 0.999
        assert (tmp_path / 'inferred' / 'added_prediction' / name).is_file()
    metrics = json.loads((tmp_path / 'inferred' / 'metrics.json').read_text())
    assert metrics['images'] == 3 and len(metrics['classes']) == 9


def test_bad_images_are_named_and_the_others_done(exported, pictures, tmp_path, capsys):
    assert run_export(exported, '--without_verify', '--output_op', 'softmax') == 0
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'broken.png').write_bytes(b'\x89PNG nonsense')
    shutil.copy(pictures / '1.png', tmp_path / 'in' / 'fine.png')
    arguments = ['infer', '--config', str(tmp_path / 'deploy'), '--save_dir', str(tmp_path / 'out')]
    assert main([*arguments, '--image_path', str(tmp_path / 'in')]) == 1
    output = capsys.readouterr()
    assert f'not done: {tmp_path / "in" / "broken.png"}: cannot be read as an image' in output.err
    assert '1 of 2 images done' in output.out
    assert (tmp_path / 'out' / 'label_ids' / 'fine.png').is_file()
    assert main([*arguments, '--image_path', str(tmp_path / 'in' / 'fine.png'), '--evaluate']) == 1
    assert 'has no label: --evaluate needs a list file' in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / 'timed'), '--image_path', str(tmp_path / 'in' / 'fine.png'),
                 '--benchmark', '--cpu_threads', '1', '--enable_mkldnn', 'False']) == 0
    text = capsys.readouterr().out
    assert '1 thread, oneDNN off' in text and not (tmp_path / 'timed').exists()


def test_small_images_are_refused_as_by_predict(exported, pictures, tmp_path, capsys):
    path, weights, folder = exported
    assert run_export(exported, '--without_verify') == 0
    (tmp_path / 'in').mkdir()
    Image.new('RGB', (40, 31)).save(tmp_path / 'in' / 'small.png')
    shutil.copy(pictures / '1.png', tmp_path / 'in' / 'fine.png')
    verbs = {'infer': ['--config', str(folder), '--batch_size', '2'],
             'predict': ['--config', str(path), '--model_path', str(weights)]}
    for verb, arguments in verbs.items():
        capsys.readouterr()
        save_dir = tmp_path / verb
        assert main([verb, *arguments, '--image_path', str(tmp_path / 'in'), '--save_dir', str(save_dir)]) == 1
        assert ('needs images of at least 32×32 pixels, but got 31×40 (height × width); pad or enlarge them.'
                in capsys.readouterr().err)
        assert [file.name for file in (save_dir / 'label_ids').iterdir()] == ['fine.png']


def test_lists_of_another_machine(exported, pictures, tmp_path, capsys):
    path, weights, folder = exported
    assert run_export(exported, '--without_verify') == 0
    listing = tmp_path / 'camvid' / 'val.txt'
    for kind, source in (('val', '1.png'), ('valannot', '1_label.png')):
        (listing.parent / kind).mkdir(parents=True)
        shutil.copy(pictures / source, listing.parent / kind / 'a.png')
    listing.write_text('/SegNet/CamVid/val/a.png /SegNet/CamVid/valannot/a.png\n')
    capsys.readouterr()
    assert main(['infer', '--config', str(folder), '--image_path', str(listing), '--evaluate',
                 '--save_dir', str(tmp_path / 'infer')]) == 0
    assert '1 of 1 images done' in capsys.readouterr().out
    assert main(['predict', '--config', str(path), '--model_path', str(weights), '--image_path', str(listing),
                 '--save_dir', str(tmp_path / 'predict')]) == 0
    for verb in ('infer', 'predict'):
        assert (tmp_path / verb / 'label_ids' / 'val' / 'a.png').is_file()


def test_refusals(exported, pictures, tmp_path, capsys):
    assert run_export(exported, '--without_verify') == 0
    for flags, text in ((['--precision', 'fp16'], '--precision fp16 on the CPU'),
                        (['--use_trt'], '--use_trt: TensorRT runs on a GPU'),
                        (['--warmup', '-1'], '--warmup -1'),
                        (['--image_path', 'nowhere'], 'nowhere: no such file or folder')):
        assert main(['infer', '--config', str(tmp_path / 'deploy'), '--image_path', str(pictures),
                     '--save_dir', str(tmp_path / 'out'), *flags]) == 1
        assert f'paddleseg infer: error: {text}' in capsys.readouterr().err


def test_export_refuses_wrong_shapes(exported, capsys):
    assert run_export(exported, '--input_shape', '1', '3') == 1
    assert 'paddleseg export: error: --input_shape 1 3: four numbers are needed' in capsys.readouterr().err
    assert not exported[2].exists()

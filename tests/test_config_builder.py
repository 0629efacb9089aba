"""`make_builder`: PaddleSeg's builder over the merged tree, and its errors in the user's terms."""
import re

import pytest
import yaml

from paddleseg_ext.config import load_config, make_builder
from paddleseg_ext.errors import UserError


@pytest.fixture
def tree(tmp_path):
    (tmp_path / 'list.txt').write_text('image.png label.png\n')
    data = {'type': 'Dataset', 'dataset_root': str(tmp_path), 'num_classes': 3,
            'transforms': [{'type': 'Normalize'}]}
    return {'batch_size': 1, 'iters': 10,
            'train_dataset': {**data, 'mode': 'train', 'train_path': str(tmp_path / 'list.txt')},
            'val_dataset': {**data, 'mode': 'val', 'val_path': str(tmp_path / 'list.txt')},
            'model': {'type': 'SegNet'}, 'optimizer': {'type': 'SGD', 'weight_decay': 0},
            'lr_scheduler': {'type': 'PolynomialDecay', 'learning_rate': 0.5, 'power': 1},
            'loss': {'types': [{'type': 'CrossEntropyLoss'}], 'coef': [1, 1]}}


@pytest.fixture
def config_of(tmp_path):
    def load(tree, **changes):
        path = tmp_path / 'config.yml'
        path.write_text(yaml.safe_dump(tree))
        return load_config(path, **changes)

    return load


def test_components_come_from_the_merged_tree(tree, config_of, capsys):
    config = config_of(tree, iters=20, opts=['lr_scheduler.learning_rate=4e-1'])
    builder = make_builder(config)
    assert len(builder.train_dataset) == 1
    assert builder.lr_scheduler.decay_steps == 20
    assert builder.lr_scheduler.base_lr == 0.4
    assert builder.optimizer.get_lr() == 0.4
    assert builder.optimizer is builder.optimizer
    assert len(builder.loss['types']) == 2
    assert [type(each).__name__ for each in builder.val_transforms] == ['Normalize']
    assert builder.config.iters == 20
    assert 'Use the following config' not in capsys.readouterr().out


def test_the_configuration_is_left_as_it_was(tree, config_of):
    config = config_of(tree)
    before = config.tree
    builder = make_builder(config)
    assert builder.config.dic['model']['num_classes'] == 3
    assert config.tree == before and 'num_classes' not in config.tree['model']


def test_broken_rules(tree, config_of):
    tree['val_dataset']['num_classes'] = 4
    with pytest.raises(UserError, match=r'config\.yml: (.|\n)*`num_classes` is not consistent(.|\n)*config check'):
        make_builder(config_of(tree))
    del tree['model']
    with pytest.raises(UserError, match='No model specified in the configuration file'):
        make_builder(config_of(tree))


@pytest.mark.parametrize('change, attribute, message', [
    ({'model': {'type': 'Nothing'}}, 'model', r'Nothing: cannot be built: .*was not found'),
    ({'model': {'type': 'SegNet', 'wrong': 1}}, 'model', r"SegNet: cannot be built: .*unexpected keyword .*'wrong'"),
    ({'model': {'type': 'DeepLabV3P', 'num_classes': 3, 'backbone': {'type': 'ResNet50_vd', 'wrong': 1}}}, 'model',
     r"ResNet50_vd: cannot be built: .*unexpected keyword .*'wrong'"),
    ({'lr_scheduler': {'type': 'PolynomialDecay'}}, 'lr_scheduler', 'lr_scheduler: Create PolynomialDecay has failed'),
    ({'lr_scheduler': {'type': 'StepDecay', 'warmup_iters': 3}}, 'lr_scheduler', 'When use warmup, please set'),
    ({'loss': {'types': [{'type': 'BCELoss', 'weight': 'x'}], 'coef': [1]}}, 'loss', 'BCELoss: cannot be built'),
])
def test_components_that_cannot_be_built(tree, config_of, change, attribute, message):
    builder = make_builder(config_of({**tree, **change}))
    with pytest.raises(UserError, match=message) as caught:
        getattr(builder, attribute)
    assert caught.value.__cause__ is not None
    assert 'Tried to create' not in str(caught.value)


def test_data_sets_that_cannot_be_built(tree, config_of, tmp_path):
    tree['train_dataset']['train_path'] = 'nowhere.txt'
    (tmp_path / 'list.txt').write_text('')
    builder = make_builder(config_of(tree))
    with pytest.raises(UserError, match=r'Dataset: cannot be built: `train_path` is not found: nowhere\.txt'):
        assert builder.train_dataset
    tree['train_dataset']['train_path'] = str(tmp_path / 'list.txt')
    with pytest.raises(UserError, match='train_dataset: The number of samples in train_dataset is 0'):
        assert make_builder(config_of(tree)).train_dataset


@pytest.mark.parametrize('value', ['__import__("os").system("")', 'nn.LayerNorm()', 'print', 'nn.Linear if 1 else 2'])
def test_code_is_refused_before_anything_is_built(tree, config_of, value):
    tree['model'] = {'type': 'LinearSegmenter', 'num_classes': 3, 'backbone': {'type': 'VisionTransformer',
                                                                             'norm_layer': value}}
    with pytest.raises(UserError, match=r'config\.yml:\d+: model\.backbone\.norm_layer: PaddleSeg would run '
                                        + re.escape(repr(value))):
        make_builder(config_of(tree))


def test_a_plain_layer_name_is_accepted(tree, config_of):
    tree['model'] = {'type': 'LinearSegmenter', 'num_classes': 3, 'backbone': {
        'type': 'VisionTransformer', 'norm_layer': 'nn.LayerNorm', 'embed_dim': 12, 'num_heads': 2, 'depth': 1,
        'img_size': 32, 'final_norm': True}}
    assert type(make_builder(config_of(tree)).model).__name__ == 'LinearSegmenter'


def test_refused_options_stop_the_builder(config_of, tree):
    with pytest.raises(UserError, match='--opts itres=5: itres: unknown key, did you mean iters'):
        make_builder(config_of(tree, opts=['itres=5']))


def test_a_warmup_of_no_steps_is_none(tiny_tree, write_yaml):
    tiny_tree['lr_scheduler'].update(warmup_iters=0, warmup_start_lr=1e-6)
    schedule = make_builder(load_config(write_yaml(tiny_tree))).lr_scheduler
    assert type(schedule).__name__ == 'PolynomialDecay'
    assert schedule.get_lr() == tiny_tree['lr_scheduler']['learning_rate']

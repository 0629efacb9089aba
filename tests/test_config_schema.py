"""The JSON schema: true to the registered components, the same on every machine, and shipped."""
import json

import paddle
import pytest

from paddleseg_ext.config import configs_folder, json_schema, shipped_configs
from paddleseg_ext.config.schema import schema_text
from paddleseg_ext.config.yaml_tree import parse_yaml
from paddleseg_ext.registry import components

jsonschema = pytest.importorskip('jsonschema')

# The versions for which the committed file is written; others have other learning rate schedules.
SCHEMA_PADDLE = '3.2'


@pytest.fixture(scope='module')
def schema():
    return json_schema()


@pytest.fixture(scope='module')
def validator(schema):
    return jsonschema.Draft7Validator(schema)


def test_is_a_valid_schema(schema):
    jsonschema.Draft7Validator.check_schema(schema)


def test_is_the_same_everywhere(schema):
    text = schema_text()
    assert text == schema_text()
    assert json.loads(text) == schema
    assert str(configs_folder().parent) not in text and '0x' not in text.replace('0x0', '')
    assert len(text) < 1_000_000


def test_the_committed_file_is_what_the_command_writes(schema):
    committed = json.loads((configs_folder() / 'schema.json').read_text(encoding='utf-8'))
    generated = dict(schema)
    if not paddle.__version__.startswith(SCHEMA_PADDLE):
        for each in (committed, generated):
            each['definitions'] = {name: value for name, value in each['definitions'].items()
                                   if not name.startswith('schedule')}
    assert committed == generated, 'run: paddleseg config schema --save configs/schema.json'


def test_knows_every_component(schema):
    for kind in ('model', 'backbone', 'dataset', 'transform', 'loss', 'optimizer'):
        assert set(components(kind)) <= set(schema['definitions'][kind]['properties']['type']['enum'])


def test_shipped_configurations_are_valid(validator):
    assert shipped_configs()
    for path in shipped_configs().values():
        node, _ = parse_yaml(path.read_text(encoding='utf-8'), str(path))
        errors = list(validator.iter_errors(node.plain()))
        assert [f'{path}: {list(error.absolute_path)}: {error.message}' for error in errors] == []


def test_shipped_configurations_name_the_schema():
    for path in (path for path in shipped_configs().values() if path.parent.name != '_base_'):
        line = path.read_text(encoding='utf-8').splitlines()[0]
        assert line.startswith('# yaml-language-server: $schema=')
        assert (path.parent / line.split('=', 1)[1]).resolve() == (configs_folder() / 'schema.json').resolve()


@pytest.mark.parametrize('document, place', [
    ({'itres': 5}, []),
    ({'iters': 0}, ['iters']),
    ({'model': {'type': 'RTFormr'}}, ['model', 'type']),
    ({'model': {'type': 'RTFormer', 'base_chanels': 3}}, ['model']),
    ({'model': {'type': 'RTFormer', 'base_channels': 'many'}}, ['model', 'base_channels']),
    ({'model': {'type': 'UPerNet', 'backbone': {'type': 'ResNet50_vd', 'layers': 3}}}, ['model', 'backbone']),
    ({'train_dataset': {'type': 'Dataset', 'transforms': [{'type': 'RandomPaddingCrop', 'crop_size': [1]}]}},
     ['train_dataset', 'transforms', 0, 'crop_size']),
    ({'loss': {'types': [{'ignore_index': 1}]}}, ['loss', 'types', 0]),
    ({'loss': {'coef': ['x']}}, ['loss', 'coef', 0]),
    ({'lr_scheduler': {'type': 'PolynomialDecay', 'warmup_itres': 3}}, ['lr_scheduler']),
    ({'optimizer': {'type': 'SGD', 'grad_clip_cfg': {'name': 'Clip'}}}, ['optimizer', 'grad_clip_cfg', 'name']),
    ({'test_config': {'stride': [1]}}, ['test_config', 'stride']),
])
def test_refuses(validator, document, place):
    assert place in [list(error.absolute_path) for error in validator.iter_errors(document)]


def test_accepts_parts_of_sections(validator):
    document = {'_base_': ['a.yml', 'b'], 'model': {'num_classes': 3}, 'lr_scheduler': {'learning_rate': 0.1},
                'optimizer': {'_inherited_': False, 'type': 'sgd'}, 'loss': {'coef': [1, 0.4]}}
    assert list(validator.iter_errors(document)) == []

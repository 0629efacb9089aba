"""`check_config`: every kind of problem, all at once, each with file, line and the nearest right name."""
import re
import textwrap

import pytest

from paddleseg_ext.config import check_config, load_config, require_valid
from paddleseg_ext.config.signatures import component_signature
from paddleseg_ext.config.yaml_tree import Location, Problem
from paddleseg_ext.errors import UserError

VALID = '''\
batch_size: 2
iters: 100
train_dataset:
  type: Dataset
  dataset_root: data
  train_path: data/train.txt
  num_classes: 3
  mode: train
  transforms:
    - type: RandomPaddingCrop
      crop_size: [64, 32]
    - type: Normalize
      mean: [0.5, 0.5, 0.5]
      std: [0.5, 0.5, 0.5]
val_dataset:
  type: Dataset
  dataset_root: data
  val_path: data/val.txt
  num_classes: 3
  mode: val
  transforms:
    - type: Normalize
model:
  type: DeepLabV3P
  num_classes: 3
  backbone:
    type: ResNet50_vd
    output_stride: 8
optimizer:
  type: AdamW
  weight_decay: 0.01
lr_scheduler:
  type: PolynomialDecay
  learning_rate: 0.01
  warmup_iters: 10
  warmup_start_lr: 0.001
loss:
  types:
    - type: CrossEntropyLoss
      weight: [1, 1, 1]
  coef: [1]
test_config:
  is_slide: true
  crop_size: [64, 64]
  stride: [48, 48]
'''


@pytest.fixture
def check(tmp_path):
    """Check VALID with pieces replaced; returns the problems as 'line: key: message'."""

    def run(*replacements, opts=(), paths=False):
        text = VALID
        for old, new in replacements:
            assert text.count(old) >= 1, old
            text = text.replace(old, new, 1)
        path = tmp_path / 'x.yml'
        path.write_text(text)
        config = load_config(path, opts=opts)
        return [str(problem).replace(f'{path}:', '') for problem in check_config(config, paths=paths)]

    return run


def test_a_valid_configuration_has_no_problems(check):
    assert check() == []


# what is replaced, by what, and what must be reported (a pattern over 'line: key: message').
CASES = {
    'misspelled top-level key': ('iters: 100', 'itres: 100',
                                 ['2: itres: unknown key, did you mean iters?', '1: iters: missing: Training steps']),
    'unknown top-level key': ('iters: 100', 'iters: 100\nwobble: 1', ['3: wobble: unknown key; known: batch_size, ']),
    'unknown model': ('type: DeepLabV3P', 'type: DeeplabV3p', ['24: model.type: unknown model DeeplabV3p, did you mean '
                                                              'DeepLabV3P[?]$']),
    'a model for a data set': ('type: Dataset', 'type: UNet',
                               ['4: train_dataset.type: UNet is a model, but a dataset is needed here']),
    'no type': ('  type: AdamW\n', '', ['29: optimizer: has no type; write which optimizer it is, .*type: AdamW']),
    'misspelt type': ('  type: AdamW', '  tpye: AdamW', ['29: optimizer: has no type; write which optimizer it is',
                                                         '30: optimizer.tpye: unknown key, did you mean type[?]$']),
    'misspelt second type': ('type: AdamW', 'type: AdamW\n  tpye: SGD',
                             ['31: optimizer.tpye: unknown key, AdamW has no such argument, did you mean type[?]$']),
    'type that is no text': ('type: AdamW', 'type: [AdamW]',
                             [r'30: optimizer.type: must be the name of an optimizer, got']),
    'unknown argument': ('output_stride: 8', 'output_strid: 8',
                         ['28: model.backbone.output_strid: unknown key, ResNet50_vd has no such argument, '
                          'did you mean output_stride?']),
    'argument set by the function': ('output_stride: 8', 'layers: 50',
                                     ['28: model.backbone.layers: ResNet50_vd sets this argument itself']),
    'unknown transform argument': ('crop_size: [64, 32]', 'crop_sise: [64, 32]',
                                   ['11: train_dataset.transforms.0.crop_sise: unknown key.*mean crop_size']),
    'missing argument': ('  num_classes: 3\n  mode: train', '  mode: train',
                         [r'4?: train_dataset.num_classes: missing, Dataset needs it: Number of classes']),
    'missing backbone': ('  backbone:\n    type: ResNet50_vd\n    output_stride: 8\n', '',
                         ['23: model.backbone: missing, DeepLabV3P needs it']),
    'text for a number': ('output_stride: 8', 'output_stride: eight',
                          ["28: model.backbone.output_stride: must be a whole number, got the text 'eight'"]),
    'fraction for a whole number': ('output_stride: 8', 'output_stride: 8.5', ['must be a whole number, got 8.5']),
    'number for a switch': ('output_stride: 8', 'output_stride: 8\n  align_corners: 2',
                            ['29: model.align_corners: must be true or false, got 2']),
    'text for a switch': ('output_stride: 8', "output_stride: 8\n  align_corners: 'no'",
                          ["model.align_corners: must be true or false, got the text 'no'"]),
    'switch for a number': ('learning_rate: 0.01', 'learning_rate: yes',
                            ['lr_scheduler.learning_rate: must be a number, got true']),
    'null for a number': ('weight_decay: 0.01', 'weight_decay: null',
                          ['31: optimizer.weight_decay: must be a number, got null']),
    'number for a list': ('crop_size: [64, 32]', 'crop_size: 64',
                          ['11: train_dataset.transforms.0.crop_size: must be a list, got 64']),
    'list for a number': ('batch_size: 2', 'batch_size: [2]', ['1: batch_size: must be a whole number, got the list']),
    'batch of none': ('batch_size: 2', 'batch_size: 0', ['1: batch_size: must be at least 1, got 0']),
    'no section': ('iters: 100', 'iters:', ['2: iters: must be a whole number, got null']),
    'section that is a list': ('test_config:\n  is_slide: true\n  crop_size: [64, 64]\n  stride: [48, 48]',
                               'test_config: [1]', [r'42: test_config: must be a mapping, got the list \[1\]']),
    'three sides': ('crop_size: [64, 32]', 'crop_size: [64, 32, 3]',
                    [r'crop_size: must be two numbers, \[width, height\], got \[64, 32, 3\]']),
    'sides that are text': ('crop_size: [64, 32]', 'crop_size: [a, b]', ['crop_size: must be two numbers']),
    'more losses than weights': ('coef: [1]', 'coef: [1, 1]\n', []),
    'losses and weights': ('    - type: CrossEntropyLoss\n', '    - type: DiceLoss\n    - type: CrossEntropyLoss\n',
                           ['38: loss.types: 2 losses but 1 weights in coef']),
    'weights that are text': ('coef: [1]', 'coef: [x]', ["41: loss.coef.0: must be a number, got the text 'x'"]),
    'no weights': ('  coef: [1]\n', '', ['37: loss.coef: missing: The weight of each loss']),
    'misspelled weights': ('  coef: [1]\n', '  ceof: [1]\n', ['41: loss.ceof: unknown key, did you mean coef?']),
    'class weights': ('weight: [1, 1, 1]', 'weight: [1, 1]',
                      ['40: loss.types.0.weight: 2 class weights for 3 classes']),
    'classes of the model': ('  num_classes: 3\n  backbone', '  num_classes: 5\n  backbone',
                             [r'7: train_dataset.num_classes: num_classes of model is 5, but of train_dataset '
                              r'\(Dataset\) it is 3 \(see .*25\)', '19: val_dataset.num_classes: num_classes of']),
    'ignored label': ('weight: [1, 1, 1]', 'ignore_index: 0', []),
    'channels': ('mean: [0.5, 0.5, 0.5]', 'mean: [0.5, 0.5]',
                 ['13: train_dataset.transforms.1.mean: 2 values for images of 3 channels; give 1 or 3']),
    'no deviation': ('std: [0.5, 0.5, 0.5]', 'std: [0.5, 0.5, 0]', [r'14: .*std.2: must be above 0, got 0']),
    'transform that is a name': ('    - type: Normalize\nmodel', '    - Normalize\nmodel',
                                 ['22: val_dataset.transforms.0: must be a mapping with the type of a transform, got '
                                  "'Normalize'; write `- type: Normalize`"]),
    'backbone that is a name': ('  backbone:\n    type: ResNet50_vd\n    output_stride: 8\n',
                                '  backbone: ResNet50_vd\n',
                                ['26: model.backbone: must be a mapping with the type of a backbone, got']),
    'transforms that are no list': ('  transforms:\n    - type: Normalize\nmodel',
                                    '  transforms: {type: Normalize}\nmodel',
                                    ['21: val_dataset.transforms: must be a list of transforms']),
    'unknown schedule': ('type: PolynomialDecay', 'type: PolinomialDecay',
                         ['33: lr_scheduler.type: unknown learning rate schedule PolinomialDecay, '
                          'did you mean PolynomialDecay?']),
    'schedule of a function': ('type: PolynomialDecay', 'type: LambdaDecay', ['unknown learning rate schedule']),
    'unknown schedule argument': ('warmup_iters', 'warmup_itres',
                                  ['35: lr_scheduler.warmup_itres: unknown key.*did you mean warmup_iters?',
                                   '36: lr_scheduler.warmup_start_lr: has no effect without warmup_iters']),
    'learning rate of zero': ('learning_rate: 0.01', 'learning_rate: 0',
                              ['34: lr_scheduler.learning_rate: must be above 0, got 0']),
    'warm-up without its start': ('  warmup_start_lr: 0.001\n', '',
                                  ['32: lr_scheduler.warmup_start_lr: missing, warmup_iters needs it']),
    'warm-up longer than the training': ('warmup_iters: 10', 'warmup_iters: 100',
                                         ['35: lr_scheduler.warmup_iters: 100 warm-up steps do not fit into the 100 '
                                          'steps of iters; shorten them, .* `--opts lr_scheduler.warmup_iters=10`$']),
    'warm-up in one step of training': ('iters: 100', 'iters: 1', ['10 warm-up steps do not fit into the 1 steps of '
                                                                   'iters; remove warmup_iters and warmup_start_lr$']),
    'unknown test key': ('is_slide: true', 'is_slid: true', ['43: test_config.is_slid: unknown.* mean is_slide']),
    'window without a step': ('  stride: [48, 48]\n', '', ['42: test_config.stride: missing, is_slide needs it']),
    'step larger than the window': ('stride: [48, 48]', 'stride: [48, 80]',
                                    [r'45: test_config.stride: \[48, 80\] is larger than crop_size \[64, 64\]']),
    'window of one side': ('crop_size: [64, 64]', 'crop_size: [64]', ['44: .*crop_size: must have 2 values']),
    'empty window': ('crop_size: [64, 64]', 'crop_size: [64, 0]', ['44: .*must be two whole numbers above 0']),
    'unknown mode': ('mode: train', 'mode: trian', ['8: train_dataset.mode: must be one of train, val, test, got']),
    'list of another mode': ('  val_path: data/val.txt\n', '  train_path: data/val.txt\n',
                             ['15: val_dataset.val_path: missing, mode val reads the images from it']),
    'evaluation on training images': ('  val_path: data/val.txt\n  num_classes: 3\n  mode: val',
                                      '  train_path: data/val.txt\n  num_classes: 3\n  mode: train',
                                      ['20: val_dataset.mode: is train: training images would be evaluated']),
    'clipping': ('weight_decay: 0.01', 'grad_clip_cfg: {name: ClipGradByGlobalNrm, clip_norm: 1}',
                 ["31: optimizer.grad_clip_cfg.name: unknown gradient clipping 'ClipGradByGlobalNrm', did you mean "
                  'ClipGradByGlobalNorm?']),
    'clipping argument': ('weight_decay: 0.01', 'grad_clip_cfg: {name: ClipGradByNorm, norm: 1}',
                          ['optimizer.grad_clip_cfg.norm: unknown key, did you mean clip_norm',
                           'optimizer.grad_clip_cfg.clip_norm: missing, ClipGradByNorm needs it']),
    'parameter group': ('weight_decay: 0.01', 'custom_cfg: [{nam: backbone, lr_mult: x}, norm]',
                        ['optimizer.custom_cfg.0.nam: unknown key, did you mean name',
                         'optimizer.custom_cfg.0.name: missing', 'custom_cfg.0.lr_mult: must be a number',
                         "custom_cfg.1: must be a mapping with name, lr_mult and weight_decay_mult, got 'norm'"]),
    'mixed loss': ('    - type: CrossEntropyLoss\n      weight: [1, 1, 1]\n',
                   '    - type: MixedLoss\n      losses: [{type: CrossEntropyLos}, {type: L1Loss}]\n      coef: [1]\n',
                   ['40: loss.types.0.losses.0.type: unknown loss CrossEntropyLos, did you mean CrossEntropyLoss',
                    '41: loss.types.0.coef: 1 weights for the 2 losses of this MixedLoss']),
    'duplicate key': ('iters: 100', 'iters: 100\niters: 200', ['3: iters: written twice, first in line 2']),
}
ALLOWED = ('more losses than weights', 'ignored label')


@pytest.mark.parametrize('name', CASES)
def test_problems(check, name):
    old, new, patterns = CASES[name]
    problems = check((old, new))
    for pattern in patterns:
        assert any(re.search(pattern, problem) for problem in problems), '\n'.join([pattern, *problems])
    assert bool(problems) == (name not in ALLOWED)


def test_all_problems_at_once_in_the_order_of_the_lines(check):
    replaced = [CASES[name][:2] for name in ('batch of none', 'unknown transform argument', 'unknown model',
                                             'unknown schedule', 'clipping', 'class weights', 'unknown test key')]
    problems = check(*replaced)
    lines = [int(problem.split(':')[0]) for problem in problems]
    assert len(problems) >= 7
    assert lines == sorted(lines)


def test_ignore_index_of_losses_and_data(check):
    problems = check(('mode: train', 'mode: train\n  ignore_index: 0'), ('weight: [1, 1, 1]', 'ignore_index: 255'))
    assert any('ignore_index of train_dataset (Dataset) is 0, but of CrossEntropyLoss it is 255' in each
               for each in problems)


def test_a_model_that_knows_its_outputs(check, monkeypatch):
    from paddleseg.models import DeepLabV3P
    monkeypatch.setattr(DeepLabV3P, 'training_outputs', staticmethod(lambda cfg: len(cfg['backbone'])), raising=False)
    problems = check()
    assert problems == ['41: loss.coef: 1 weights, but DeepLabV3P has 2 outputs in training with these arguments; '
                        'give 2 weights']
    assert check(('coef: [1]', 'coef: [1, 0.4]')) == []


def test_facts_of_data_set_classes(check):
    problems = check(('type: Dataset\n  dataset_root: data\n  train_path: data/train.txt\n  num_classes: 3\n',
                      'type: Cityscapes\n  dataset_root: data\n'))
    assert any('num_classes of model is 3, but of train_dataset (Cityscapes) it is 19' in each for each in problems)


@pytest.mark.parametrize('argument, value', [
    ('norm_layer', '__import__("os").system("true") or nn.LayerNorm'), ('arm_type', 'UAFM, print(1)')])
def test_values_that_would_run_as_code(check, argument, value):
    problems = check(('output_stride: 8', f"{argument}: '{value}'"))
    assert any('PaddleSeg would run' in each and 'as Python code; only a plain name is accepted' in each
               for each in problems)


def test_a_class_cannot_come_from_yaml(check):
    problems = check(('type: ResNet50_vd\n    output_stride: 8', 'type: SwinTransformer\n    norm_layer: nn.LayerNorm'))
    assert problems == ['28: model.backbone.norm_layer: SwinTransformer takes a Python class here, which YAML cannot '
                        'give; remove it']


def test_arguments_left_over_from_a_base_of_another_type(tmp_path):
    (tmp_path / 'base.yml').write_text(VALID.replace('  weight_decay: 0.01', '  beta1: 0.9'))
    child = tmp_path / 'child.yml'
    child.write_text('_base_: base.yml\noptimizer:\n  type: SGD\n')
    (problem,) = check_config(load_config(child), paths=False)
    assert (problem.file, problem.line, problem.key) == (str(tmp_path / 'base.yml'), 31, 'optimizer.beta1')
    assert f'whose type was replaced in {child}:3; write `_inherited_: False`' in problem.message
    child.write_text('_base_: base.yml\noptimizer:\n  _inherited_: False\n  type: SGD\n')
    assert check_config(load_config(child), paths=False) == []


def chain_problem(folder, **optimizers):
    """The only problem of a chain of files, each based on the one before, the first holding the rest of VALID."""
    rest = VALID.replace('optimizer:\n  type: AdamW\n  weight_decay: 0.01\n', '')
    for base, (name, lines) in zip([None, *optimizers], optimizers.items()):
        head = f'_base_: {base}.yml\n' if base else rest
        (folder / f'{name}.yml').write_text(f'{head}optimizer:\n  {lines}\n')
    (problem,) = check_config(load_config(folder / f'{name}.yml'), paths=False)
    return problem


@pytest.mark.parametrize('files, own, replaced_in', [
    ({'base': 'type: AdamW', 'leaf': 'beta3: 1'}, 'leaf', None),
    ({'base': 'type: AdamW', 'middle': 'beta1: 0.9', 'leaf': 'beta3: 1'}, 'leaf', None),
    ({'base': 'type: AdamW', 'middle': 'beta3: 1', 'leaf': 'weight_decay: 0.1'}, 'middle', None),
    ({'base': 'beta1: 0.9\n  type: AdamW', 'leaf': 'type: SGD'}, 'base', 'leaf.yml:3'),
    ({'base': 'beta1: 0.9\n  type: AdamW', 'middle': 'type: SGD', 'leaf': 'weight_decay: 0.1'}, 'base', 'middle.yml:3'),
    ({'base': 'beta1: 0.9\n  type: AdamW', 'middle': 'weight_decay: 0.1', 'leaf': 'type: SGD'}, 'base', 'leaf.yml:3'),
    ({'base': 'type: AdamW', 'middle': 'beta1: 0.9', 'leaf': 'type: SGD'}, 'middle', 'leaf.yml:3'),
    ({'base': 'type: AdamW', 'middle': 'type: SGD', 'leaf': 'beta1: 0.9'}, 'leaf', None),
])
def test_only_keys_below_a_replaced_type_are_called_inherited(tmp_path, files, own, replaced_in):
    problem = chain_problem(tmp_path, **files)
    assert problem.file == str(tmp_path / f'{own}.yml')
    assert 'unknown key' in problem.message and ('_inherited_' in problem.message) == (replaced_in is not None)
    if replaced_in:
        assert f'comes from the base, whose type was replaced in {tmp_path}/{replaced_in};' in problem.message


def test_sgd_with_momentum_is_momentum(check):
    assert check(('type: AdamW', 'type: SGD\n  momentum: 0.9\n  use_nesterov: true')) == []
    assert any('SGD has no such argument' in each for each in check(('type: AdamW', 'type: sgd\n  use_nesterov: true')))


def test_paths(check, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problems = check(('output_stride: 8', 'output_stride: 8\n    pretrained: weights.pdparams'), paths=True)
    assert [each.split(' does not exist')[0] for each in problems] == [
        '5: train_dataset.dataset_root: data', '6: train_dataset.train_path: data/train.txt',
        '17: val_dataset.dataset_root: data', '18: val_dataset.val_path: data/val.txt',
        '29: model.backbone.pretrained: weights.pdparams']
    assert 'data is not there either' in problems[1]
    (tmp_path / 'data').mkdir()
    for name in ('trian.txt', 'val.txt'):
        (tmp_path / 'data' / name).touch()
    (problem,) = check(('output_stride: 8', 'output_stride: 8\n    pretrained: https://example.com/x'), paths=True)
    assert f'6: train_dataset.train_path: data/train.txt does not exist, looked from {tmp_path}' in problem
    assert 'did you mean data/trian.txt?' in problem


def test_problems_of_options_name_the_option(check):
    problems = check(opts=['iters=5', 'model.type=Unet'])
    assert any(each.startswith('--opts iters=5: iters: ') or 'warmup' in each for each in problems)
    assert any(each.startswith('--opts model.type=Unet: model.type: unknown model Unet, did you mean UNet') for each
               in problems)


def test_refused_options_are_problems_among_the_others(check):
    problems = check(('iters: 100', 'itres: 100'), opts=['optimizer.weight_decai=0', 'loss.coef.7=1', 'batch_size=0'])
    assert ('--opts optimizer.weight_decai=0: optimizer.weight_decai: unknown key, did you mean '
            'optimizer.weight_decay?') in problems
    assert "--opts loss.coef.7=1: loss.coef.7: loss.coef is a list, its positions are 0 to 0; got '7'." in problems
    assert '--opts batch_size=0: batch_size: must be at least 1, got 0' in problems
    assert '2: itres: unknown key, did you mean iters?' in problems


def test_require_valid_lists_refused_options(tmp_path):
    path = tmp_path / 'x.yml'
    path.write_text(VALID.replace('AdamW', 'AdamV'))
    with pytest.raises(UserError, match=r'2 problems in the configuration:\n  --opts model\.num_clases=3: '
                                        r'model\.num_clases: unknown key, did you mean(.|\n)*AdamV'):
        require_valid(load_config(path, opts=['model.num_clases=3']), paths=False)


def test_require_valid_lists_everything(tmp_path):
    path = tmp_path / 'x.yml'
    path.write_text(VALID.replace('iters: 100', 'itres: 100').replace('AdamW', 'AdamV'))
    with pytest.raises(UserError, match=r'3 problems in the configuration:\n(.|\n)*itres(.|\n)*AdamV') as caught:
        require_valid(load_config(path), paths=False)
    assert str(caught.value).count(str(path)) >= 4
    path.write_text(VALID)
    require_valid(load_config(path), paths=False)


def test_hostile_shapes_do_not_crash(tmp_path):
    path = tmp_path / 'x.yml'
    for text in ('model: 5', 'model: [1]', 'model: {type: {a: 1}}', 'loss: {types: 3, coef: x}', 'train_dataset: x',
                 'loss: {types: [[1]], coef: [[1]]}', 'optimizer: {type: SGD, custom_cfg: 3, grad_clip_cfg: []}',
                 'lr_scheduler: {type: [], warmup_iters: x}', 'test_config: {crop_size: [a, b], is_slide: true}',
                 'model: {type: UNet, num_classes: x, backbone: 3}', 'val_dataset: {type: Dataset, mode: 3}',
                 'train_dataset: {type: Dataset, transforms: [[{type: Normalize}]], num_classes: true}',
                 'model: {type: RTFormer, use_injection: 1, layer_nums: x}\nloss: {coef: [1], types: [{}]}'):
        path.write_text(textwrap.dedent(text))
        assert check_config(load_config(path)), text


def test_problem_text():
    assert str(Problem('a.yml', 12, 'model.x', 'unknown key')) == 'a.yml:12: model.x: unknown key'
    assert str(Problem('--opts a=1', 0, 'a', 'wrong')) == '--opts a=1: a: wrong'
    assert str(Location('a.yml', 3)) == 'a.yml:3'


@pytest.mark.parametrize('name, accepted, fixed, is_open', [
    ('ResNet50_vd', {'output_stride', 'multi_grid', 'in_channels', 'pretrained'}, {'layers'}, False),
    ('HRNet_W18', {'align_corners', 'pretrained', 'in_channels'}, {'stage4_num_channels'}, False),
    ('DDRNet_23', {'num_classes', 'enable_auxiliary_loss'}, {'block_layers'}, False),
    ('SwinTransformer_tiny_patch4_window7_224_maskformer', {'pretrained'}, {'depths'}, False),
    ('SegmentationTransformer', {'head', 'mlahead_channels', 'lr_multiple'}, set(), False),
    ('VisionTransformer', {'img_size'}, set(), True),
])
def test_keyword_arguments_are_followed(name, accepted, fixed, is_open):
    signature = component_signature(name)
    assert accepted <= set(signature.arguments)
    assert fixed <= signature.fixed and not fixed & set(signature.arguments)
    assert signature.open is is_open

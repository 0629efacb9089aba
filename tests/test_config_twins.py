"""The shipped leaves do what their names and headers say, and those of Twins are the published recipes."""
from __future__ import annotations

import re

import pytest

from paddleseg_ext.config import configs_folder, load_config, make_builder, shipped_configs
from paddleseg_ext.config.parameter_groups import require_groups_match

PATTERN = re.compile(r'(?P<model>\w+?)_(?P<data>ade20k|camvid|cityscapes|cocostuff10k)_(?P<width>\d+)x(?P<height>\d+)_'
                     r'(?P<length>\d+)k')
NAMED = {stem: (path, PATTERN.fullmatch(stem)) for stem, path in shipped_configs().items() if PATTERN.fullmatch(stem)}
TWINS = [name for name in NAMED if name.startswith('twins_')]

DATASETS = {'ade20k': ('ADE20K', 150), 'camvid': ('CamVid', 11), 'cityscapes': ('Cityscapes', 19),
            'cocostuff10k': ('COCOStuff10k', 171)}
HEADS = {'semantic_fpn': ('SemanticFPN', [1]), 'upernet': ('UPerNetMMSeg', [1, 0.4]),
         'linear_fusion': ('LinearFusionSeg', [1, 0.4])}
SIZES = {'s': 'small', 'b': 'base', 'l': 'large'}

# mIoU of mmsegmentation at one scale, its memory in GB on each GPU (both in its model zoo), and the authors' mIoU.
PUBLISHED = {
    'pcpvt_s_semantic_fpn': (43.26, 6.6, None), 'svt_s_semantic_fpn': (44.47, 5.8, None),
    'pcpvt_b_semantic_fpn': (45.66, 8.41, None), 'svt_b_semantic_fpn': (46.77, 8.75, None),
    'pcpvt_l_semantic_fpn': (45.94, 10.78, None), 'svt_l_semantic_fpn': (46.55, 11.2, None),
    'pcpvt_s_upernet': (46.04, 9.67, 46.2), 'svt_s_upernet': (46.08, 4.93, 46.2),
    'pcpvt_b_upernet': (47.91, 6.46, 47.1), 'svt_b_upernet': (48.04, 6.77, 47.4),
    'pcpvt_l_upernet': (49.35, 7.82, 48.6), 'svt_l_upernet': (49.65, 8.41, 48.8),
}


def header(name):
    """The comment above the first key: schema, title, command, needs, expected."""
    lines = NAMED[name][0].read_text(encoding='utf-8').splitlines()
    return lines[:next(index for index, line in enumerate(lines) if not line.startswith('#'))]


def transform(tree, kind, part='train_dataset'):
    return next((each for each in tree[part]['transforms'] if each['type'] == kind), None)


def variant(name):
    """('svt', 's', 'semantic_fpn') of a leaf of Twins."""
    return re.fullmatch(r'twins_(pcpvt|svt)_([sbl])_(\w+)', NAMED[name][1]['model']).groups()


# --- every leaf whose name tells a size ------------------------------------------------------------------------------

@pytest.mark.parametrize('name', NAMED)
def test_name_and_content_agree(name):
    _, match = NAMED[name]
    tree = load_config(name).tree
    size = [int(match['width']), int(match['height'])]
    crop = transform(tree, 'RandomPaddingCrop') or transform(tree, 'RandomClassBalancedCrop')
    assert crop['crop_size'] == size
    if crop['type'] == 'RandomClassBalancedCrop':
        assert transform(tree, 'Padding')['target_size'] == size
    assert tree['iters'] // 1000 in (int(match['length']), int(match['length']) - 1)
    assert round(tree['iters'] / 1000) == int(match['length'])
    dataset, classes = DATASETS[match['data']]
    assert tree['train_dataset']['type'] == tree['val_dataset']['type'] == dataset
    assert tree['model']['num_classes'] == classes
    family = NAMED[name][0].parent.name
    assert name.startswith(family) and family in str(tree['model']).lower()


@pytest.mark.parametrize('name', NAMED)
def test_header_has_command_needs_and_expectation(name):
    schema, title, command, needs, expected = header(name)
    assert schema == '# yaml-language-server: $schema=../schema.json'
    assert title.endswith('.') and title.startswith('# ')
    assert f'paddleseg train --config {name} --do_eval --save_dir output/{name}' in command
    assert needs.startswith('# Needs: ') and re.search(r'\d GPUs? with \d+ GB', needs)
    assert expected.startswith('# Expected: ') and 'not trained here' in expected
    devices = re.search(r'--gpus ([\d,]+)', command)
    count = len(devices[1].split(',')) if devices else 1
    assert needs.startswith(f'# Needs: {count} GPU')


# --- Twins -----------------------------------------------------------------------------------------------------------

def test_all_the_promised_leaves_are_there():
    designs = ('pcpvt', 'svt')
    expected = {f'twins_{design}_{size}_{head}_ade20k_512x512_{length}' for design in designs for size in 'sbl'
                for head, length in (('semantic_fpn', '80k'), ('upernet', '160k'))}
    expected |= {f'twins_{design}_{size}_{head}_cityscapes_1024x512_80k' for design in designs for size in 'sb'
                 for head in ('semantic_fpn', 'linear_fusion')}
    expected |= {f'twins_{design}_s_semantic_fpn_camvid_480x360_30k' for design in designs}
    assert set(TWINS) == expected


@pytest.mark.parametrize('name', TWINS)
def test_model_of_a_leaf(name):
    design, size, head = variant(name)
    tree = load_config(name).tree
    assert (tree['model']['type'], tree['loss']['coef']) == HEADS[head]
    backbone = tree['model']['backbone']
    assert backbone['type'] == f'Twins_{design.upper()}_{size.upper()}'
    assert backbone['pretrained'] == f'timm/twins_{design}_{SIZES[size]}.in1k'
    assert f'# Twins-{design.upper()}-{size.upper()} with ' in header(name)[1]
    assert len(NAMED[name][0].read_text(encoding='utf-8').splitlines()) <= 15


ADE20K = [name for name in TWINS if '_ade20k_' in name]


@pytest.mark.parametrize('name', ADE20K)
def test_published_recipe(name):
    design, size, head = variant(name)
    tree = load_config(name).tree
    large = {'semantic_fpn': ('svt_l',), 'upernet': ('pcpvt_b', 'pcpvt_l', 'svt_l')}[head]
    backbone = tree['model']['backbone']
    assert backbone['drop_path_rate'] == (0.3 if f'{design}_{size}' in large else 0.2)
    assert backbone['norm_epsilon'] == 1e-5
    devices = len(re.search(r'--gpus ([\d,]+)', header(name)[2])[1].split(','))
    optimizer, schedule = tree['optimizer'], tree['lr_scheduler']
    if head == 'semantic_fpn':
        assert devices * tree['batch_size'] == 32
        assert optimizer == {'type': 'AdamW', 'weight_decay': 1e-4}
        assert schedule == {'type': 'PolynomialDecay', 'learning_rate': 1e-4, 'end_lr': 1e-6, 'power': 0.9}
    else:
        assert devices * tree['batch_size'] == (32 if (design, size) == ('pcpvt', 's') else 16)
        assert (optimizer['type'], optimizer['weight_decay']) == ('AdamW', 0.01)
        assert optimizer['custom_cfg'] == [{'name': 'norm', 'weight_decay_mult': 0.0},
                                           {'name': 'position', 'weight_decay_mult': 0.0}]
        assert schedule == {'type': 'PolynomialDecay', 'learning_rate': 6e-5, 'end_lr': 0.0, 'power': 1.0,
                            'warmup_iters': 1500, 'warmup_start_lr': pytest.approx(6e-5 * 1e-6)}


@pytest.mark.parametrize('name', ADE20K)
def test_published_figures(name):
    miou, memory, authors = PUBLISHED['_'.join(variant(name))]
    *_, needs, expected = header(name)
    assert f'mmsegmentation reports {memory:g} GB on each' in needs
    assert re.match(rf'# Expected: mIoU {miou:.2f}, with scales and flip \d\d\.\d\d \(mmsegmentation[;)]', expected)
    assert ('(the authors;' in expected) == (authors is not None) and (authors is None or f', {authors} (' in expected)


def test_augmentation_of_ade20k_is_that_of_mmsegmentation():
    tree = load_config('twins_svt_s_upernet_ade20k_512x512_160k').tree
    kinds = [each['type'] for each in tree['train_dataset']['transforms']]
    assert kinds == ['RandomRescale', 'RandomClassBalancedCrop', 'RandomHorizontalFlip', 'PhotometricDistortion',
                     'Normalize', 'Padding']
    assert transform(tree, 'RandomRescale') == {'type': 'RandomRescale', 'size': [2048, 512], 'min_factor': 0.5,
                                                'max_factor': 2.0}
    assert transform(tree, 'RandomClassBalancedCrop')['max_class_ratio'] == 0.75
    padding = transform(tree, 'Padding')
    assert (padding['im_padding_value'], padding['label_padding_value']) == (0, 255)
    assert transform(tree, 'PhotometricDistortion') == {'type': 'PhotometricDistortion'}
    assert transform(tree, 'Resize', 'val_dataset') == {'type': 'Resize', 'target_size': [2048, 512],
                                                        'keep_ratio': True}


def test_figures_of_our_own_recipes_are_not_claimed():
    ours = [name for name in TWINS if '_ade20k_' not in name]
    assert ours and all('no published figure for this recipe' in header(name)[-1] for name in ours)


# --- what the leaves build -------------------------------------------------------------------------------------------

@pytest.fixture(scope='module', params=['upernet_ade20k_512x512_160k', 'linear_fusion_cityscapes_1024x512_80k',
                                        'semantic_fpn_camvid_480x360_30k'])
def built(request):
    """The builder of an SVT-S leaf, without the download of its weights and without drawing others."""
    from paddleseg_ext.engine.bare_models import bare_models
    builder = make_builder(load_config(f'twins_svt_s_{request.param}', opts=['model.backbone.pretrained=null']))
    with bare_models():
        assert builder.model is not None
    return builder


def test_groups_take_what_the_recipe_says(built):
    weights = {name: weight for name, weight in built.model.named_parameters() if not weight.stop_gradient}
    names = list(weights)
    groups = built.config.optimizer_cfg['custom_cfg']
    require_groups_match(groups, [(name, True) for name in names])
    norms = [name for name in names if 'norm' in name]
    positions = [name for name in names if 'position' in name]
    # Before every attention and feed-forward layer, in the embeddings, after the stages, and where GSA has fewer keys.
    assert len(norms) == 2 * (2 * 18 + 4 + 4 + 1 + 1 + 5)
    assert len(positions) == 2 * 4 and not set(norms) & set(positions)
    assert not any('.bn.' in name for name in norms + positions) and any('.bn.' in name for name in names)
    decays = {id(weight): group['weight_decay'] for group in built.optimizer._param_groups
              for weight in group['params']}
    spared = {name for name, weight in weights.items() if decays[id(weight)] == 0.0}
    assert spared == set(norms) | set(positions)
    assert set(decays.values()) == {0.0, 0.01} and len(decays) == len(names)


def test_learning_rate_over_the_recipe():
    config = load_config('twins_svt_s_upernet_ade20k_512x512_160k')
    schedule = make_builder(config).lr_scheduler
    rates = {}
    for step in (0, 750, 1500, 1500 + 79250, 159999):
        schedule.step(step)
        rates[step] = schedule.get_lr()
    assert rates[0] == pytest.approx(6e-11)
    assert rates[750] == pytest.approx(3e-5, rel=1e-3)
    assert rates[1500] == pytest.approx(6e-5)
    assert rates[1500 + 79250] == pytest.approx(3e-5)
    assert rates[159999] == pytest.approx(6e-5 / 158500, rel=1e-3)


def test_bases_lie_where_the_rules_say():
    folder = configs_folder()
    for name in TWINS:
        chain = load_config(name).bases
        files = {str(path) for path in chain} | {str(each) for bases in chain.values() for each in bases}
        shared = [path for path in files if '/_base_/' in path]
        assert len(shared) == 1 and str(folder) in shared[0]

"""The leaves of XCiT are the published recipes, and say which are not."""
from __future__ import annotations

import re

import pytest

from paddleseg_ext.config import load_config, make_builder, shipped_configs
from paddleseg_ext.config.parameter_groups import require_groups_match

PATTERN = re.compile(r'xcit_(?P<size>[ntsml](?:12|24))_p(?P<patch>16|8)_(?P<head>semantic_fpn|upernet)_'
                     r'(?P<data>ade20k|camvid|cityscapes)_\d+x\d+_\d+k')
# The CPU recipe for CamVid is measured, not published: docs/camvid.md.
NAMED = {stem: PATTERN.fullmatch(stem) for stem in shipped_configs()
         if stem.startswith('xcit_') and not stem.endswith('_cpu_1h')}
ADE20K = [name for name, match in NAMED.items() if match and match['data'] == 'ade20k']

# The authors' mIoU at one scale, patches of 16 and 8: semantic_segmentation/README.md of their repository.
PUBLISHED = {
    ('t12', 'semantic_fpn'): (38.1, 39.9), ('t12', 'upernet'): (41.5, 43.5),
    ('s12', 'semantic_fpn'): (43.9, 44.2), ('s12', 'upernet'): (45.9, 46.6),
    ('s24', 'semantic_fpn'): (44.6, 47.1), ('s24', 'upernet'): (46.9, 48.1),
    ('m24', 'semantic_fpn'): (45.9, 46.9), ('m24', 'upernet'): (47.6, 48.4),
}
DROP_PATH = {('t12', 'semantic_fpn'): 0., ('t12', 'upernet'): 0., ('s12', 'semantic_fpn'): 0.05,
             ('s12', 'upernet'): 0.05, ('s24', 'semantic_fpn'): 0.1, ('s24', 'upernet'): 0.1,
             ('m24', 'semantic_fpn'): 0.2, ('m24', 'upernet'): 0.15}
CHANNELS = {'n12': 128, 't12': 192, 't24': 192, 's12': 384, 's24': 384, 'm24': 512, 'l24': 768}
LONG = {'n': 'nano', 't': 'tiny', 's': 'small', 'm': 'medium', 'l': 'large'}


def header(name):
    lines = shipped_configs()[name].read_text(encoding='utf-8').splitlines()
    return lines[:next(index for index, line in enumerate(lines) if not line.startswith('#'))]


def test_all_the_promised_leaves_are_there():
    expected = {f'xcit_{size}_p{patch}_{head}_ade20k_512x512_{length}' for size in ('t12', 's12', 's24', 'm24')
                for patch in (16, 8) for head, length in (('semantic_fpn', '80k'), ('upernet', '160k'))}
    expected |= {f'xcit_{size}_p{patch}_semantic_fpn_ade20k_512x512_80k' for size in ('n12', 't24', 'l24')
                 for patch in (16, 8)}
    expected |= {f'xcit_{size}_p16_semantic_fpn_{data}' for size in ('t12', 's12')
                 for data in ('cityscapes_1024x512_80k', 'camvid_480x360_30k')}
    assert set(NAMED) == expected


@pytest.mark.parametrize('name', NAMED)
def test_model_and_optimizer_of_a_leaf(name):
    match, tree = NAMED[name], load_config(name).tree
    size, patch, head = match['size'], match['patch'], match['head']
    model, backbone = tree['model'], tree['model']['backbone']
    assert (model['type'], tree['loss']['coef']) == {'semantic_fpn': ('SemanticFPN', [1]),
                                                     'upernet': ('UPerNetMMSeg', [1, 0.4])}[head]
    assert model.get('fpn_channels') == (CHANNELS[size] if head == 'semantic_fpn' else None)
    assert backbone['type'] == f'XCiT_{size.upper()}_P{patch}'
    assert backbone['pretrained'] == f'timm/xcit_{LONG[size[0]]}_{size[1:]}_p{patch}_384.fb_dist_in1k'
    assert 'out_indices' not in backbone, 'the published ones are the default'
    if (size, head) in DROP_PATH:
        assert backbone['drop_path_rate'] == DROP_PATH[size, head]
    assert tree['optimizer'] == {'type': 'AdamW', 'weight_decay': 0.01,
                                 'custom_cfg': [{'name': 'norm', 'weight_decay_mult': 0.0}]}
    assert tree['lr_scheduler'] == {'type': 'PolynomialDecay', 'learning_rate': 6e-5, 'end_lr': 0.0, 'power': 1.0,
                                    'warmup_iters': 1500, 'warmup_start_lr': pytest.approx(6e-11)}
    assert len(shipped_configs()[name].read_text(encoding='utf-8').splitlines()) <= 15


@pytest.mark.parametrize('name', ADE20K)
def test_published_figures_and_batches(name):
    match = NAMED[name]
    *_, command, _, expected = header(name)
    assert len(re.search(r'--gpus ([\d,]+)', command)[1].split(',')) * load_config(name).tree['batch_size'] == 16
    figures = PUBLISHED.get((match['size'], match['head']))
    if figures is None:
        assert expected == '# Expected: no published figure for this recipe; not trained here'
    else:
        assert expected == f"# Expected: mIoU {figures[match['patch'] == '8']} (the authors; not trained here)"


def test_figures_of_our_own_recipes_are_not_claimed():
    ours = [name for name in NAMED if name not in ADE20K]
    assert len(ours) == 4 and all('no published figure for this recipe' in header(name)[-1] for name in ours)


def test_weight_decay_spares_layer_norms_alone():
    from paddleseg_ext.engine.bare_models import bare_models
    builder = make_builder(load_config('xcit_t12_p16_upernet_ade20k_512x512_160k',
                                       opts=['model.backbone.pretrained=null']))
    with bare_models():
        weights = {name: weight for name, weight in builder.model.named_parameters() if not weight.stop_gradient}
    require_groups_match(builder.config.optimizer_cfg['custom_cfg'], [(name, True) for name in weights])
    decays = {id(weight): group['weight_decay'] for group in builder.optimizer._param_groups
              for weight in group['params']}
    spared = {name for name, weight in weights.items() if decays[id(weight)] == 0.0}
    assert spared == {f'backbone.blocks.{block}.norm{number}.{part}' for block in range(12) for number in (1, 2, 3)
                      for part in ('weight', 'bias')}
    assert any('.bn.' in name for name in weights) and len(decays) == len(weights)

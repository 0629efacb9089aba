"""Reading YAML: bases, overrides, places, and what is refused. Nothing here needs Paddle, but for the --opts keys."""
import re
import subprocess
import sys
import textwrap

import pytest

from paddleseg_ext.config import find_config, load_config, loading
from paddleseg_ext.config.rendering import render_yaml
from paddleseg_ext.config.yaml_tree import parse_yaml
from paddleseg_ext.errors import UserError


@pytest.fixture
def write(tmp_path):
    """Write YAML files by name; returns the path of the last."""

    def write_files(**files):
        for name, text in files.items():
            path = tmp_path / f'{name}.yml'
            path.write_text(textwrap.dedent(text).lstrip('\n'))
        return path

    return write_files


def test_numbers_without_a_dot_are_numbers(write):
    path = write(a='''
        plain: 4e-4
        signed: -1E+3
        dotted: 1.0e5
        integer: 12
        text: 4e
        quoted: '4e-4'
    ''')
    assert load_config(path).tree == {'plain': 4e-4, 'signed': -1000.0, 'dotted': 1e5, 'integer': 12, 'text': '4e',
                                      'quoted': '4e-4'}


def test_mappings_merge_and_lists_are_replaced(write):
    path = write(base='''
        model: {type: UNet, num_classes: 2, inner: {a: 1, b: 2}}
        list: [1, 2, 3]
    ''', child='''
        _base_: base.yml
        model:
          num_classes: 5
          inner: {b: 3}
        list: [9]
    ''')
    assert load_config(path).tree == {'model': {'type': 'UNet', 'num_classes': 5, 'inner': {'a': 1, 'b': 3}},
                                      'list': [9]}


def test_of_several_bases_the_first_wins(write):
    path = write(one='a: 1\nb: {x: 1}', two='a: 2\nb: {x: 2, y: 2}\nc: 2', child='_base_: [one.yml, two.yml]\nd: 4')
    assert load_config(path).tree == {'a': 1, 'b': {'x': 1, 'y': 2}, 'c': 2, 'd': 4}


def test_not_inherited_sections_drop_every_base(write):
    path = write(one='s: {a: 1}\nt: 1', two='s: {b: 1}',
                 child='_base_: [one.yml, two.yml]\ns: {_inherited_: False, c: 3}')
    assert load_config(path).tree == {'s': {'c': 3}, 't': 1}


def test_the_inherit_mark_never_stays(write):
    path = write(base='s: {_inherited_: False, a: 1}', child='_base_: base.yml\nnew: {_inherited_: False, c: 3}')
    assert load_config(path).tree == {'s': {'a': 1}, 'new': {'c': 3}}


def test_same_tree_as_paddleseg_for_a_chain(write):
    from paddleseg.cvlibs.config import parse_from_yaml
    path = write(root='a: {x: 1, y: [1, 2]}\nb: {z: 1}\nkept: {q: 0}', middle='_base_: root.yml\na: {y: [3], w: 0.5}',
                 leaf='_base_: ./middle.yml\nb: {_inherited_: False, new: 2}\nc: text')
    assert load_config(path).tree == parse_from_yaml(str(path))


def test_places_follow_the_final_value(write, tmp_path):
    path = write(base='''
        model:
          type: UNet
          num_classes: 2
        list:
          - 1
          - 2
    ''', child='''
        # a comment
        _base_: base.yml
        model:
          num_classes: 5
    ''')
    config = load_config(path, opts=['list.1=7'])
    base, child = str(tmp_path / 'base.yml'), str(tmp_path / 'child.yml')
    assert config.location(('model', 'num_classes')) == (child, 4)
    assert config.location(('model', 'type')) == (base, 2)
    assert config.location(('model', 'absent')) == (child, 3)
    assert config.location(('list', 0)) == (base, 5)
    assert config.location(('list', 1)) == ('--opts list.1=7', 0)


def test_duplicate_keys_are_problems_with_both_lines(write):
    config = load_config(write(a='iters: 1\nmodel:\n  type: UNet\n  type: FCN\niters: 2\n'))
    assert config.tree == {'model': {'type': 'FCN'}, 'iters': 2}
    texts = [str(problem) for problem in config.problems]
    assert any('a.yml:5: iters: written twice, first in line 1' in text for text in texts)
    assert any('a.yml:4: model.type: written twice, first in line 3' in text for text in texts)


def test_merge_keys_and_anchors(write):
    path = write(a='one: &x {a: 1, b: 2}\ntwo: {<<: *x, b: 3}\nthree: *x')
    config = load_config(path)
    assert config.tree == {'one': {'a': 1, 'b': 2}, 'two': {'a': 1, 'b': 3}, 'three': {'a': 1, 'b': 2}}
    assert config.problems == []


def test_keys_that_are_not_text_are_problems(write):
    config = load_config(write(a='on: 1\n5: 2\n'))
    assert [str(each).split('a.yml:')[1].split(';')[0] for each in config.problems] == [
        '1: on: a key must be text, and YAML reads this one as bool',
        '2: 5: a key must be text, and YAML reads this one as int']


@pytest.mark.parametrize('text, message', [
    ('', 'the file is empty'),
    ('# only a comment\n', 'the file is empty'),
    ('- a\n- b\n', r'a\.yml:1: a configuration is a mapping .* this file holds a list'),
    ('hello', r"a\.yml:1: a configuration is a mapping .* only the value 'hello'"),
    ('a: [1, 2\nb: 3\n', r'a\.yml:2:2: not YAML: '),
    ('a:\n\tb: 1\n', r"a\.yml:2:1: not YAML: .*indent with spaces"),
    ('a: !!python/name:os.system x\n', r'a\.yml:1:4: not YAML: .*Python objects are refused'),
    ('a: &x [*x]\n', r'a\.yml:1:4: not YAML: an alias that contains itself'),
    ('_base_: 5\n', r'a\.yml:1: _base_: must be a file name or a list of them, got 5'),
    ('_base_: nowhere.yml\n', r'a\.yml:1: _base_: there is no .*nowhere\.yml'),
    ('x: 1\n_base_: a.yml\n', r'a\.yml: _base_ goes round in a circle: a\.yml -> a\.yml'),
])
def test_files_that_cannot_be_read(write, text, message):
    path = write(a='x: 1')
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(path)


def test_a_circle_names_its_chain(write):
    path = write(one='_base_: two.yml', two='_base_: three.yml', three='_base_: two.yml', start='_base_: one.yml')
    with pytest.raises(UserError, match=r'two\.yml -> three\.yml -> two\.yml; remove one'):
        load_config(path)


def test_one_base_reached_twice_is_no_circle(write):
    path = write(root='a: 1', left='_base_: root.yml\nb: 2', right='_base_: root.yml\nc: 3',
                 leaf='_base_: [left.yml, right.yml]')
    assert load_config(path).tree == {'a': 1, 'b': 2, 'c': 3}


def test_not_utf8(tmp_path):
    path = tmp_path / 'a.yml'
    path.write_bytes(b'a: \xff\xfe')
    with pytest.raises(UserError, match='cannot be read as UTF-8'):
        load_config(path)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = tmp_path / 'configs'
    (folder / 'family').mkdir(parents=True)
    (folder / 'family' / 'rtformer_demo.yml').write_text('a: 1')
    monkeypatch.setattr(loading, 'configs_folder', lambda: folder)
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    return folder / 'family' / 'rtformer_demo.yml'


@pytest.mark.parametrize('name', ['rtformer_demo', 'rtformer_demo.yml', 'family/rtformer_demo.yml',
                                  'configs/family/rtformer_demo.yml'])
def test_shipped_names(shipped, name):
    assert find_config(name) == shipped


def test_a_base_may_be_a_shipped_name(shipped, write):
    assert load_config(write(child='_base_: rtformer_demo\nb: 2')).tree == {'a': 1, 'b': 2}


def test_unknown_names_get_the_nearest(shipped):
    with pytest.raises(UserError, match='No configuration rtformer_dmo.*nearest shipped ones are rtformer_demo'):
        find_config('rtformer_dmo')
    with pytest.raises(UserError, match='No configuration other/rtformer_demo.yml'):
        find_config('other/rtformer_demo.yml')
    with pytest.raises(UserError, match='is a folder'):
        find_config(shipped.parent)


def test_a_file_without_its_suffix(shipped, tmp_path):
    (tmp_path / 'elsewhere' / 'mine.yml').write_text('a: 2')
    assert load_config('mine').tree == {'a': 2}


SMALL = '''
    iters: 10
    batch_size: 2
    lr_scheduler: {type: PolynomialDecay, learning_rate: 0.1}
    loss: {types: [{type: CrossEntropyLoss}], coef: [1, 0.4]}
    model: {type: UNet, num_classes: 3}
    optimizer: {type: SGD}
'''


@pytest.mark.parametrize('option, path, value', [
    ('iters=5', ('iters',), 5),
    ('loss.coef.0=0.5', ('loss', 'coef', 0), 0.5),
    ('loss.coef=[1, 2]', ('loss', 'coef'), [1, 2]),
    ('lr_scheduler.learning_rate=4e-4', ('lr_scheduler', 'learning_rate'), 4e-4),
    ('loss.types.0.type=DiceLoss', ('loss', 'types', 0, 'type'), 'DiceLoss'),
    ('test_config.scales=0.75,1.0', ('test_config', 'scales'), [0.75, 1.0]),
    ('model.pretrained=None', ('model', 'pretrained'), None),
    ('model.pretrained=a=b.pdparams', ('model', 'pretrained'), 'a=b.pdparams'),
    ('model.use_deconv=true', ('model', 'use_deconv'), True),
    ('lr_scheduler.warmup_iters=3', ('lr_scheduler', 'warmup_iters'), 3),
    ('optimizer.momentum=0.9', ('optimizer', 'momentum'), 0.9),
    ('optimizer.grad_clip_cfg.clip_norm=1', ('optimizer', 'grad_clip_cfg', 'clip_norm'), 1),
    ('seed=1', ('seed',), 1),
])
def test_options(write, option, path, value):
    node = load_config(write(a=SMALL), opts=[option]).tree
    for key in path:
        node = node[key]
    assert node == value and isinstance(node, type(value))


@pytest.mark.parametrize('option, message', [
    ('itres=5', r'itres: unknown key, did you mean iters\?$'),
    ('model.num_clases=5', r'model\.num_clases: unknown key, did you mean model\.num_classes\?$'),
    ('model.use_deconvolution=1', r': model\.use_deconvolution: unknown key, did you mean model\.use_deconv\?'),
    ('loss.coeff=[1]', r'loss\.coeff: unknown key, did you mean loss\.coef\?'),
    ('optimizer.tpye=SGD', r'optimizer\.tpye: unknown key, did you mean optimizer\.type\?'),
    ('test_config.is_slid=1', 'did you mean test_config.is_slide'),
    ('loss.coef.2=1', r"loss\.coef is a list, its positions are 0 to 1; got '2'"),
    ('loss.coef.first=1', "positions are 0 to 1; got 'first'"),
    ('iters.x=1', 'iters is the value 10 and has no keys inside'),
    ('iters', 'must be key.path=value'),
    ('=5', 'must be key.path=value'),
    ('model..x=5', 'must be key.path=value'),
    ('iters=[1', 'not YAML'),
])
def test_options_that_are_refused(write, option, message):
    config = load_config(write(a=SMALL), opts=[option, 'seed=1'])
    (problem,) = config.refused
    assert (problem.file, problem.line) == (f'--opts {option}', 0) and re.search(message, str(problem))
    assert config.tree == {**load_config(config.path).tree, 'seed': 1}
    with pytest.raises(UserError, match=message):
        config.require_options()


def test_all_refused_options_are_listed(write):
    config = load_config(write(a=SMALL), opts=['itres=5', 'iters=5', 'loss.coef.2=1'])
    assert config.tree['iters'] == 5
    with pytest.raises(UserError, match=r'--opts itres=5: itres: unknown key(.|\n)*\n--opts loss\.coef\.2=1: '):
        config.require_options()


def test_options_build_on_one_another(write):
    tree = load_config(write(a=SMALL), opts=['model.type=RTFormer', 'model.cross_size=8']).tree
    assert tree['model'] == {'type': 'RTFormer', 'num_classes': 3, 'cross_size': 8}


def test_flags_replace_values(write):
    config = load_config(write(a=SMALL), iters=7, batch_size=3, learning_rate=0.01)
    assert (config.tree['iters'], config.tree['batch_size']) == (7, 3)
    assert config.tree['lr_scheduler']['learning_rate'] == 0.01
    assert config.location(('iters',)) == ('--iters 7', 0)


@pytest.mark.parametrize('flags, message', [
    ({'batch_size': 0}, '--batch_size 0: must be a whole number of at least 1'),
    ({'batch_size': -2}, '--batch_size -2: must be a whole number'),
    ({'iters': 0}, '--iters 0: must be a whole number'),
    ({'iters': 1.5}, '--iters 1.5: must be a whole number'),
    ({'learning_rate': 0}, '--learning_rate 0: must be above 0'),
    ({'learning_rate': float('nan')}, '--learning_rate nan: must be above 0'),
])
def test_flags_that_are_refused(write, flags, message):
    with pytest.raises(UserError, match=message):
        load_config(write(a=SMALL), **flags)


def test_learning_rate_needs_a_schedule(write):
    with pytest.raises(UserError, match='has no lr_scheduler'):
        load_config(write(a='iters: 1'), learning_rate=0.1)


def test_tree_is_a_fresh_copy(write):
    config = load_config(write(a=SMALL))
    config.tree['loss']['coef'].append(3)
    assert config.tree['loss']['coef'] == [1, 0.4]


def test_rendered_yaml_loads_to_the_same_tree(write):
    path = write(a='''
        text: "two\\nlines"
        odd: 'yes'
        number: 0.0004
        tiny: 1e-6
        empty: {}
        none: null
        nested: [[1, 2], [3]]
        items: [{type: A, sizes: [1, 2]}, {type: B, inner: {x: [{type: C}]}}, plain]
    ''')
    config = load_config(path)
    for with_lines in (False, True):
        text = render_yaml(config.root, with_lines=with_lines)
        assert parse_yaml(text, 'x')[0].plain() == config.tree
    assert 'a.yml:4' in [line for line in text.splitlines() if line.startswith('tiny')][0]


def test_loading_does_not_import_paddle(write):
    code = f'import sys; from paddleseg_ext.config import load_config; load_config({str(write(a=SMALL))!r}); ' \
           "sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0

"""What Visual Transformers cost beside what they replace: the tables of docs/visual_transformers.md.

    python -m scripts.visual_transformer_costs [--size HEIGHT WIDTH]

Models are built without drawing weights, and multiply-accumulates are counted at the operators, not computed, so it
takes seconds. `make docs` writes the tables at the sizes of SEGMENTED and CLASSIFIED.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from paddle import nn

from paddleseg_ext.engine.operation_count import count_macs
from paddleseg_ext.layers.projections import map_projection, token_projection
from paddleseg_ext.models.semantic_fpn import SemanticFPN
from paddleseg_ext.models.vt_fpn import VTFPN
from paddleseg_ext.registry import components
from scripts.visual_transformer_counting import (
    GROUPS,
    TOKEN_CHANNELS,
    TOKENS,
    Cost,
    Modules,
    Published,
    Remembering,
    WithTokens,
    bare,
    cost,
    map_size,
    modules_cost,
    pyramid_costs,
    stage_costs_of,
)

__all__ = ['choice_costs', 'fpn_costs', 'module_costs', 'paper_costs', 'part_costs', 'size_costs', 'stage_costs']

SEGMENTED, CLASSIFIED = (512, 512), (224, 224)
# Sides of square images for the last table.
GROWING = (96, 128, 224, 384, 512, 1024)
# Of COCO-Stuff.
CLASSES = 171
# Registered names and arguments. Any output_stride of PaddleSeg's ResNets but 8 and 16 means 32.
BACKBONES: dict[str, dict] = {
    'ResNet50': {}, 'ResNet101': {}, 'VT_ResNet18': {}, 'VT_ResNet50': {}, 'Twins_SVT_S': {}, 'XCiT_S12_P16': {},
    'ResNet50_vd': {'output_stride': 32}, 'ResNet101_vd': {'output_stride': 32},
}
# The paper, arXiv 2006.03677; unverified, because its authors published neither code nor weights.
PUBLISHED = {18: Published(11.7, 1569), 34: Published(19.2, 3236), 50: Published(21.4, 3412),
             101: Published(41.5, 7129)}
# GFLOPs of the whole and of the pyramid over ResNet-50 on COCO-Stuff, in the paper.
PUBLISHED_PYRAMIDS = {'SemanticFPN': (159, 55.1), 'VTFPN': (113, 8.5)}

# --- pyramids --------------------------------------------------------------------------------------------------------

def fpn_costs(size: Sequence[int] = SEGMENTED) -> str:
    """VTFPN against SemanticFPN over the same backbones: the whole, and without the backbone."""
    rows = []
    for name, arguments in BACKBONES.items():
        with bare():
            alone, semantic, tokens = pyramid_costs(components('backbone')[name](**arguments), size, CLASSES)
        whole = [alone + semantic, alone + tokens]
        rows.append([f'`{name}`', *(f'{each.parameters / 1e6:.2f}' for each in whole),
                     *(f'{each.macs / 1e9:.2f}' for each in whole),
                     *(f'{each.parameters / 1e6:.2f}' for each in (semantic, tokens)),
                     *(f'{each.macs / 1e9:.2f}' for each in (semantic, tokens)),
                     f'{semantic.macs / tokens.macs:.2f}'])
    header = ['backbone', *(f'{part}, {unit}: {head}' for part in ('whole', 'FPN') for unit in ('M', 'GMACs')
                            for head in ('SemanticFPN', 'VTFPN')), 'times fewer']
    return _table(header, rows)


def paper_costs(sizes: Sequence[Sequence[int]] = (SEGMENTED, (800, 800))) -> str:
    """The pyramids over ResNet-50 at two sizes, beside what is published, at a size that is not known to us."""
    columns = []
    for size in sizes:
        with bare():
            costs = pyramid_costs(components('backbone')['ResNet50'](), size, CLASSES)
        alone, semantic, tokens = (each.macs / 1e9 for each in costs)
        columns.append([f'{alone:.1f}', f'{2 * alone:.1f}', f'{semantic:.1f}', f'{tokens:.1f}',
                        f'{semantic / tokens:.2f}'])
    (semantic_whole, semantic), (tokens_whole, tokens) = PUBLISHED_PYRAMIDS.values()
    columns.append([f'{semantic_whole - semantic:.1f} and {tokens_whole - tokens:.1f}', '', f'{semantic:.1f}',
                    f'{tokens:.1f}', f'{semantic / tokens:.2f}'])
    names = ['ResNet-50, the rest of the whole', 'twice that', 'Panoptic FPN without it', 'VT-FPN without it',
             'times fewer']
    header = ['', *(f'ours at {height}×{width}, GMACs' for height, width in sizes), 'the paper, GFLOPs']
    return _table(header, list(zip(names, *columns)))


def part_costs(size: Sequence[int] = SEGMENTED) -> str:
    """Where the multiply-accumulates of both pyramids go, over ResNet-50."""
    with bare():
        backbone = Remembering(components('backbone')['ResNet50']())
        semantic, tokens = SemanticFPN(CLASSES, backbone), VTFPN(CLASSES, backbone)
        count_macs(backbone, (1, 3, *size))
        maps = [list(each.shape) for each in backbone.maps]
        pyramid = [[1, 256, *shape[2:]] for shape in maps]
        all_of_semantic, all_of_tokens = (count_macs(model, (1, 3, *size)) for model in (semantic, tokens))
        parts = {
            'SemanticFPN': {
                'laterals 1×1': _sum(semantic.neck.laterals, maps),
                'outputs 3×3': _sum(semantic.neck.outputs, pyramid),
                'classifier 1×1': count_macs(semantic.head.classifier, (1, 128, *maps[0][2:]))},
            'VTFPN': {
                'laterals 1×1': _sum(tokens.neck.laterals, maps),
                'tokenizers': _sum(tokens.neck.tokenizers, pyramid),
                'transformer': count_macs(tokens.neck.relation, (1, TOKEN_CHANNELS, 8 * len(maps))),
                'classifier 1×1': count_macs(tokens.head.classifier, (1, 256, *maps[0][2:]))}}
    parts['SemanticFPN']['3×3 of the head'] = all_of_semantic - sum(parts['SemanticFPN'].values())
    parts['VTFPN']['projectors'] = all_of_tokens - sum(parts['VTFPN'].values())
    rows = [[model, part, f'{macs / 1e9:.3f}'] for model, each in parts.items() for part, macs in each.items()]
    return _table(['pyramid', 'part', 'GMACs'], rows, words=2)


def _sum(layers: Sequence[nn.Layer], shapes: Sequence[Sequence[int]]) -> int:
    return sum(count_macs(layer, tuple(shape)) for layer, shape in zip(layers, shapes))


# --- classifiers -----------------------------------------------------------------------------------------------------

def stage_costs(size: Sequence[int] = CLASSIFIED) -> str:
    """VT-ResNet against ResNet: whole classifiers, and the last stage alone, beside what is published."""
    wholes, stages = [], []
    for depth, published in PUBLISHED.items():
        costs = stage_costs_of(depth, tuple(size))
        old, new, implied = costs.convolutions, costs.modules, costs.implied(published)
        wholes.append([f'{depth}', *_three(*costs.wholes, published, size)])
        fewer = f'{old.macs / 1e6 / implied.macs:.2f}' if tuple(size) == CLASSIFIED else '–'
        stages.append([f'{depth}', *_three(old, new, implied, size), f'{old.macs / new.macs:.2f}', fewer])
    header = [f'{unit}: {model}' for unit in ('M', 'MMACs') for model in ('ResNet', 'VT-ResNet', 'the paper')]
    return '\n\n'.join(['**Whole classifiers**', _table(['depth', *header], wholes), '**The last stage alone**',
                        _table(['depth', *header, 'times fewer', 'times fewer, the paper'], stages)])


def _three(plain: Cost, tokens: Cost, published: Published, size: Sequence[int]) -> list[str]:
    """Cells of two costs and of what is published, which is so at its own size only."""
    told = tuple(size) == CLASSIFIED
    return [f'{plain.parameters / 1e6:.2f}', f'{tokens.parameters / 1e6:.2f}',
            f'{published.parameters:.1f}' if told else '–', f'{plain.macs / 1e6:.0f}', f'{tokens.macs / 1e6:.0f}',
            f'{published.macs:.0f}' if told else '–']


# --- modules ---------------------------------------------------------------------------------------------------------

def module_costs(size: Sequence[int] = CLASSIFIED) -> str:
    """The parts of a module on the maps of VT-ResNet-18 and 34, and of 50 and 101."""
    parts: dict[str, list[Cost]] = {}
    for channels in (256, 1024):
        shape, tokens = (1, channels, *map_size(size)), (1, TOKEN_CHANNELS, TOKENS)
        with bare():
            first, second = Modules(channels, 2, project=True).chain
            recurrent, projector = (WithTokens(layer, tokens) for layer in (second.tokenizer, second.projector))
            relation = cost(first.relation, *tokens)
            matrices = cost(nn.Sequential(first.relation.fc1, first.relation.fc2), *tokens)
            found = {'filter-based tokenizer': cost(first.tokenizer, *shape),
                     'recurrent tokenizer': cost(recurrent, *shape), 'transformer, F1 and F2': matrices,
                     'transformer, the rest, and norm': relation + cost(first.norm, *tokens) - matrices,
                     'projector': cost(projector, *shape)}
        for name, each in found.items():
            parts.setdefault(name, []).append(each)
    rows = [[name, *(text for each in costs for text in _millions(each))] for name, costs in parts.items()]
    return _table(['part', '256 channels, M', 'MMACs', '1024 channels, M', 'MMACs'], rows)


# --- what other choices would cost -----------------------------------------------------------------------------------

def _grouped_transformer(modules: Modules) -> None:
    for module in modules.chain:
        relation = module.relation
        relation.fc1, relation.fc2 = (token_projection(TOKEN_CHANNELS, TOKEN_CHANNELS, groups=GROUPS)
                                      for _ in range(2))


def _narrow_transformer(modules: Modules) -> None:
    for module in modules.chain:
        module.relation.fc1 = token_projection(TOKEN_CHANNELS, TOKEN_CHANNELS // 2)
        module.relation.fc2 = token_projection(TOKEN_CHANNELS // 2, TOKEN_CHANNELS)


def _grouped_keys(modules: Modules) -> None:
    for module in modules.chain:
        if module.recurrent:
            module.tokenizer.filters = _regrouped(module.tokenizer.filters)
        if module.projector is not None:
            module.projector.key, module.projector.value = map(_regrouped, (module.projector.key,
                                                                            module.projector.value))


def _all_grouped(modules: Modules) -> None:
    _grouped_transformer(modules)
    _grouped_keys(modules)


def _regrouped(layer: nn.Conv1D) -> nn.Conv1D:
    return token_projection(layer.weight.shape[1], layer.weight.shape[0], groups=GROUPS)


# Name: arguments of Modules, and what is done to them then. Those in code marks are switches of the backbones.
CHOICES: dict[str, tuple[dict, Callable[[Modules], None] | None]] = {
    'as built': ({}, None),
    '`tokens: 8`': ({'tokens': 8}, None),
    '`token_channels: 512`': ({'token_channels': 512}, None),
    '`tokenizer: filter`': ({'tokenizer': 'filter'}, None),
    '`relation: convolution`': ({'relation': 'convolution'}, None),
    '`relation: none`': ({'relation': 'none'}, None),
    '`position_encoding: false`': ({'position_encoding': False}, None),
    '`groups: 1`, all dense': ({'groups': 1}, None),
    'a projector in the last module too': ({'project': True}, None),
    'F1 and F2 in 16 groups': ({}, _grouped_transformer),
    'F1 to and F2 from 512 channels': ({}, _narrow_transformer),
    'W_TA, W_K and W_V (projector) in 16 groups': ({}, _grouped_keys),
    'both of these in 16 groups': ({}, _all_grouped),
}


def choice_costs(size: Sequence[int] = CLASSIFIED) -> str:
    """Parameters and multiply-accumulates of all modules of a classifier, had they been built otherwise."""
    rows = []
    kinds = ((256, 2), (256, 3), (1024, 3))
    with bare():
        for name, (arguments, change) in CHOICES.items():
            rows.append([name, *(_pair(modules_cost(channels, count, size, change, **arguments))
                                 for channels, count in kinds)])
        widened = [_pair(modules_cost(512, count, size) + cost(map_projection(256, 512), 1, 256, *map_size(size)))
                   for _, count in kinds[:2]]
    rows.append(['the map widened to 512 channels by a 1×1 convolution', *widened, ''])
    if tuple(size) == CLASSIFIED:
        implied = {depth: stage_costs_of(depth, CLASSIFIED).implied(each) for depth, each in PUBLISHED.items()}
        left = {depth: f'{each.parameters:.1f} / {each.macs:.0f}' for depth, each in implied.items()}
        rows.append(['left of the published totals', left[18], left[34], f'{left[50]} and {left[101]}'])
    return _table(['modules', *(f'{depths}, M / MMACs' for depths in ('18', '34', '50 and 101'))], rows)


# --- larger images ---------------------------------------------------------------------------------------------------

def size_costs(sizes: Sequence[int] = GROWING) -> str:
    """How many times fewer multiply-accumulates the modules of a classifier have than the last stage, by image size."""
    rows = []
    for depth in (18, 34, 50):
        with bare():
            backbone = components('backbone')[f'ResNet{depth}']()
            stage, channels = backbone.stages[3], backbone.feat_channels[2]
            maps = [map_size((size, size)) for size in sizes]
            modules = [modules_cost(channels, len(stage), (size, size)).macs for size in sizes]
        fewer = [count_macs(stage, (1, channels, *shape)) / macs for shape, macs in zip(maps, modules)]
        rows.append(['50 and 101' if depth == 50 else f'{depth}', *(f'{each:.1f}' for each in fewer)])
    return _table(['depth', *(f'{size}²' for size in sizes)], rows)


# --- writing ---------------------------------------------------------------------------------------------------------

def _millions(each: Cost) -> tuple[str, str]:
    return f'{each.parameters / 1e6:.2f}', f'{each.macs / 1e6:.1f}'


def _pair(each: Cost) -> str:
    return f'{each.parameters / 1e6:.1f} / {each.macs / 1e6:.0f}'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Markdown; all but the first `words` columns are numbers."""
    rule = ['---'] * words + ['---:'] * (len(header) - words)
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in [header, rule, *rows])


def main() -> int:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--size', nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'),
                        help='of the images in most tables; else 512 512 for pyramids, 224 224 for classifiers')
    size = parser.parse_args().size
    if size is not None and min(size) < 32:
        parser.error(f'--size {size[0]} {size[1]}: height and width must be at least 32.')
    for table in (fpn_costs, part_costs, stage_costs, module_costs, choice_costs):
        print(table(size) if size else table(), end='\n\n')
    for table in (paper_costs, size_costs):
        print(table(), end='\n\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""The cost tables of docs/visual_transformers.md: counts against hand formulas, and text against counts."""
from __future__ import annotations

import re
import sys

import paddle
import pytest

from paddleseg_ext.backbones import resnet
from paddleseg_ext.engine.bare_models import bare_models
from scripts import visual_transformer_costs as costs
from scripts import write_docs
from scripts.visual_transformer_counting import (
    Cost,
    Published,
    StageCosts,
    modules_cost,
    pyramid_costs,
    stage_costs_of,
)

PAGE = write_docs.ROOT / 'docs/visual_transformers.md'
GRID_CELLS = 7**2


@pytest.fixture(scope='module')
def tables():
    """By name, as the command makes them."""
    return {name: make() for name, make in write_docs.TABLES['docs/visual_transformers.md'].items()}


@pytest.fixture(scope='module')
def page():
    return PAGE.read_text(encoding='utf-8')


def cells(table):
    """Rows of a table by their first cell, without the header."""
    lines = [line for line in table.splitlines() if line.startswith('|')]
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    return {row[0]: row[1:] for row in rows[2:]}


def pair(text):
    """'5.2 / 86' as numbers."""
    return tuple(map(float, text.split(' / ')))


# --- against hand formulas -------------------------------------------------------------------------------------------

# C, HW, L, T, groups; P of T for positions: T/16 rounded down to groups.
@pytest.mark.parametrize('c, height, width, tokens, t, groups, positions', [(32, 4, 6, 5, 64, 2, 4),
                                                                            (48, 8, 4, 4, 96, 4, 4)])
def test_modules_cost_what_their_equations_say(c, height, width, tokens, t, groups, positions):
    hw, new = height * width, tokens // 2
    with bare_models():
        found = modules_cost(c, 2, (16 * height, 16 * width), tokens=tokens, token_channels=t, groups=groups)
    value, place = c * (t - positions) // groups, GRID_CELLS * positions
    relation = 2 * t * t // 2 // groups + 2 * t * t
    related = relation * tokens + tokens**2 * t // 2 + tokens**2 * t
    projector = c * c // groups + 2 * t * c
    projected = c * c // groups * hw + 2 * t * c * tokens + 2 * c * tokens * hw
    norms = 2 * t
    assert found.parameters == c * tokens + t * c + 2 * (value + place + relation) + projector + norms
    first = 2 * c * tokens * hw + (value + place) * tokens + related + projected
    second = t * c * new + 2 * c * new * hw + (value + place) * new + related
    assert found.macs == first + second


def test_pyramids_cost_what_their_layers_say():
    channels, classes, grid = resnet.VARIANTS['ResNet18'].channels, 7, 8
    with bare_models():
        backbone = resnet.ResNet(resnet.VARIANTS['ResNet18'])
        alone, semantic, tokens = pyramid_costs(backbone, (64, 96), classes)
    areas = [16 * 24, 8 * 12, 4 * 6, 2 * 3]
    laterals = sum(256 * c * area for c, area in zip(channels, areas))
    # Each level smooths; the first goes to the head at its own size, the others at every size up to half of the finest.
    smoothing = 9 * 256**2 * sum(areas)
    head = 9 * 256 * 128 * sum(areas) + 9 * 128**2 * (areas[1] + areas[2] + areas[1])
    assert semantic.macs == laterals + smoothing + head + 128 * classes * areas[0]
    every, t = 4 * grid, 1024
    value = 256 * (t - 64) // 16 + GRID_CELLS * 64
    tokenizers = sum(2 * 256 * grid * area + value * grid for area in areas)
    relation = (t * t // 16 + 2 * t * t) * every + every**2 * (t // 2 + t)
    projectors = sum((256**2 // 16 + 2 * 256 * every) * area + 2 * t * 256 * every for area in areas)
    assert tokens.macs == laterals + tokenizers + relation + projectors + 256 * classes * areas[0]
    assert alone.parameters == 11_176_512  # torchvision's resnet18 without its linear map of 513,000


@pytest.mark.parametrize('depth, parameters', [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160)])
def test_resnets_are_those_of_torchvision(depth, parameters):
    found = stage_costs_of(depth, (32, 32))
    plain, tokens = found.wholes
    assert plain.parameters == parameters
    assert plain - found.convolutions - found.heads[0] == tokens - found.modules - found.heads[1] == found.trunk


def test_what_the_paper_leaves():
    found = StageCosts(Cost(3_000_000, 50_000_000), Cost(0, 0), Cost(0, 0), (Cost(0, 0), Cost(1_000_000, 2_000_000)))
    left = found.implied(Published(11.5, 100))
    assert (left.parameters, left.macs) == (pytest.approx(7.5), pytest.approx(48))


# --- the page --------------------------------------------------------------------------------------------------------

def test_tables_are_up_to_date(page, tables):
    """`make docs` writes them."""
    assert write_docs.fill(page, tables) == page


def test_tables_have_even_rows(tables):
    for table in tables.values():
        blocks = [block.splitlines() for block in table.split('\n\n') if block.startswith('|')]
        assert blocks and all(len({row.count('|') for row in rows}) == 1 for rows in blocks)


def test_text_about_pyramids(page, tables):
    rows = cells(tables['fpn-costs'])
    assert list(rows) == [f'`{name}`' for name in costs.BACKBONES]
    assert all(float(row[-1]) > 6.5 for row in rows.values())
    assert 'reached over every one of these backbones' in page
    growth = [float(row[5]) - float(row[4]) for row in rows.values()]
    assert min(growth) == pytest.approx(0.4, abs=0.006) and max(growth) == pytest.approx(0.55, abs=0.006)
    ours, paper = [], []
    for row in cells(tables['paper-costs']).values():
        ours.append(float(row[1]))
        paper.append([float(text) for text in row[2].split(' and ') if text])
    assert all(abs(ours[index] / each - 1) < 0.05 for index, other in ((1, 0), (2, 2), (3, 3)) for each in paper[other])
    assert f'{paper[0][0] / paper[2][0]:.1f} times as much' in page and f'has {ours[0] / ours[2]:.2f} times' in page


def test_text_about_the_last_stage(page, tables):
    rows = cells(tables['stage-costs'].split('\n\n')[-1])
    fewer = {depth: float(row[-2]) for depth, row in rows.items()}
    assert {f'{value:.1f}' for value in fewer.values()} == {'4.8', '3.3'}
    assert max(float(row[-1]) for row in rows.values()) == pytest.approx(6.1, abs=0.05)
    text = ' '.join(page.split())
    assert 'reach 4.8 times with ResNet-18 and 34, and 3.3 times with' in text and 'leave 6.1 at most' in text
    sizes = cells(tables['size-costs'])
    assert costs.GROWING[:4] == (96, 128, 224, 384)
    for depth, row in sizes.items():
        at_96, at_128, at_224, *larger = map(float, row)
        assert at_96 < 1. < at_128 < 2. and min(larger) > 6.9
        assert at_224 == pytest.approx(fewer[depth[:2]], abs=0.051)


def test_text_about_the_differences(page, tables):
    text = ' '.join(page.split())
    rows = {name: [pair(cell) for cell in row if cell and ' and ' not in cell]
            for name, row in cells(tables['choice-costs']).items()}
    built, few, left = rows['as built'], rows['`tokens: 8`'], rows['left of the published totals']
    assert f'our modules have {few[2][0]} M parameters and {few[2][1]:.0f} MMACs' in text
    assert f'leave {rows["F1 and F2 in 16 groups"][2][0]} M' in text
    assert f'cost {built[2][1] / few[2][1]:.1f} times as much' in text
    assert [each[1][1] - each[0][1] for each in (left, built, few)] == [49, 49, 25]
    assert round(left[1][0] - left[0][0], 1) == 2.1 and built[1][0] - built[0][0] == pytest.approx(3.0, abs=0.11)
    trunks = [stage_costs_of(depth, costs.CLASSIFIED).trunk.parameters / 1e6 for depth in (50, 101)]
    published = [costs.PUBLISHED[depth].parameters for depth in (50, 101)]
    assert f'by {published[1] - published[0] - trunks[1] + trunks[0]:.1f} M parameters more' in text
    lacking = [[theirs - ours for theirs, ours in zip(*pairs)] for pairs in zip(left, built)]
    assert [round(each[1]) for each in lacking] == pytest.approx([80, 80], abs=1)
    assert [round(each[0], 1) for each in lacking] == [2.7, 1.9]
    widened = rows['the map widened to 512 channels by a 1×1 convolution']
    explained = [[(new - ours) / lack for new, ours, lack in zip(*each)] for each in zip(widened, built, lacking)]
    assert [share for each in explained for share in each] == pytest.approx([1 / 3, 1 / 2, 0.95, 3 / 4], abs=0.05)


# --- the command and the recipe --------------------------------------------------------------------------------------

def test_sizes_below_the_least_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['visual_transformer_costs', '--size', '16', '64'])
    with pytest.raises(SystemExit):
        costs.main()
    assert '--size 16 64: height and width must be at least 32.' in capsys.readouterr().err


def test_other_sizes_claim_nothing_of_the_paper():
    table = costs.stage_costs((64, 96))
    assert all(row[2] == row[5] == '–' for row in cells(table.split('\n\n')[1]).values())
    assert 'published' not in costs.choice_costs((64, 96))


def test_classifier_recipe_runs(page):
    [program] = re.findall(r'^```python\n(.*?)^```$', page, re.DOTALL | re.MULTILINE)
    names = {}
    exec(program, names)
    rates = []
    for _ in range(8):
        rates.append(names['schedule'].get_lr())
        names['schedule'].step()
    assert rates == pytest.approx([0.01, 0.04, 0.07, 0.1, 0.13, 0.16, 0.16 * 0.9875, 0.16 * 0.9875**2])
    before = names['classifier'].head.weight.numpy()
    loss = names['train_step'](paddle.rand([2, 3, 32, 32]), paddle.to_tensor([3, 999]), 1)
    assert 0 < loss < 100 and (names['classifier'].head.weight.numpy() != before).any()
    gamma, steps = re.search(r'gamma: ([\d.]+)  # 0.9875 to the power of 1/(\d+)', page).groups()
    assert float(gamma)**int(steps) == pytest.approx(0.9875, rel=1e-6)

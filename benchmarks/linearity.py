"""Time and memory of one forward pass against pixels: `python -m benchmarks.linearity`, or `make bench-linearity`.

Every point is a process of its own with one thread; one that takes too long or too much memory is ended, and larger
images are not tried with that model. For a quick look: `--sizes 256 384 --models XCiT_S12_P16 ViT_S`.
"""
from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.compare_backbones import describe_cpu, versions
from benchmarks.report import fill, table
from benchmarks.turns import Child, ChildFailure, TooMuch

__all__ = ['MODELS', 'PARTS', 'draw', 'exponent', 'main', 'parse', 'render']

SWIN = 'SwinTransformer_tiny_patch4_window7_224'
MODELS = {'XCiT_S12_P16': 'XCiT-S12/16', 'Twins_SVT_S': 'Twins-SVT-S', 'RTFormer': 'RTFormer-Base, own head',
          SWIN: 'Swin-T, PaddleSeg', 'ViT_S': 'ViT-S/16, PaddleSeg'}
PARTS = {'segmentor': 'with SemanticFPN', 'backbone': 'backbone alone'}
KINDS = {'seconds': ('time, s', 1., '.2f'), 'bytes': ('peak memory, MiB', 2.**20, '.0f')}
SIZES = (256, 384, 512, 768, 1024, 1536, 2048)
FIT_FROM = 512
PACKAGES = ('paddlepaddle', 'paddleseg', 'numpy')


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', choices=MODELS, default=list(MODELS), metavar='NAME',
                        help=f'default: {" ".join(MODELS)}')
    parser.add_argument('--sizes', nargs='+', type=int, default=list(SIZES), metavar='PIXELS',
                        help=f'sides of the images, multiples of 32; default: {" ".join(map(str, SIZES))}')
    parser.add_argument('--seconds', type=float, default=300., help='limit of a point, all of it; default: 300')
    parser.add_argument('--gibibytes', type=float, default=12., help='limit of resident memory; default: 12')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the points there, after each')
    parser.add_argument('--from', dest='source', type=Path, metavar='FILE', help='points of an earlier --json')
    parser.add_argument('--document', type=Path, metavar='FILE', help='Markdown file that takes the report')
    parser.add_argument('--picture', type=Path, metavar='FILE', help='PNG that takes the curves')
    args = parser.parse_args(arguments)
    if any(size < 32 or size % 32 for size in args.sizes):
        parser.error(f'--sizes {" ".join(map(str, args.sizes))}: expected multiples of 32.')
    args.sizes = sorted(set(args.sizes))
    return args


def main(arguments: list[str]) -> int:
    from paddleseg_ext.files import atomic_write_text

    args = parse(arguments)
    run = json.loads(args.source.read_text(encoding='utf-8')) if args.source else run_all(args)
    if args.picture:
        draw(run['points'], args.picture)
    if args.document:
        picture = os.path.relpath(args.picture, args.document.parent) if args.picture else ''
        text = fill(args.document.read_text(encoding='utf-8'), render(run, picture), 'linearity')
        atomic_write_text(args.document, text)
    return int(any(point['failure'] and not point['too_much'] for point in run['points']))


def run_all(args: argparse.Namespace) -> dict:
    """Measure what the command line asks for, smaller images first, and print each point when it is there."""
    from paddleseg_ext.files import atomic_write_text

    points: list[dict] = []
    run = {'date': datetime.date.today().isoformat(), 'cpu': describe_cpu(), 'load': [os.getloadavg()[0]] * 2,
           'versions': versions(PACKAGES), 'points': points}
    for model in args.models:
        for part in PARTS if model != 'RTFormer' else ['segmentor']:
            failure = ''
            for size in args.sizes:
                point = {'model': model, 'part': part, 'size': size, 'failure': failure, 'too_much': bool(failure)}
                points.append(point if failure else {**point, **_measure(model, part, size, args)})
                failure = points[-1]['failure'] and f'not tried after {points[-1]["failure"]}'
                print(*points[-1].values(), flush=True)
                run['load'][1] = os.getloadavg()[0]
                if args.json:
                    atomic_write_text(args.json, json.dumps(run, indent=1))
    return run


def _measure(model: str, part: str, size: int, args: argparse.Namespace) -> dict:
    threads = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1')
    with tempfile.TemporaryDirectory(prefix='linearity_') as folder:
        try:
            child = Child('linearity_point', [model, part, size], {**threads, 'CUDA_VISIBLE_DEVICES': ''},
                          Path(folder, 'log'))
            return json.loads(child.wait_within(seconds=args.seconds, bytes=int(args.gibibytes * 2**30)))
        except ChildFailure as problem:
            return {'failure': str(problem), 'too_much': isinstance(problem, TooMuch)}


def exponent(points: Iterable[Mapping], kind: str) -> float | None:
    """b of `kind` ~ pixels^b, by least squares of the logarithms over the sides of at least FIT_FROM pixels.

    None where fewer than two such points were measured.
    """
    known = [(point['size']**2, point[kind]) for point in points if point['size'] >= FIT_FROM and not point['failure']]
    if len(known) < 2:
        return None
    pixels, values = np.log(np.array(known)).T
    return float(np.polyfit(pixels, values, 1)[0])


def curves(points: Sequence[Mapping]) -> dict[tuple[str, str], list[Mapping]]:
    """The points of each model and part, by size."""
    keys = dict.fromkeys((point['model'], point['part']) for point in points)
    return {key: sorted((point for point in points if (point['model'], point['part']) == key),
                        key=lambda point: point['size']) for key in keys}


def render(run: Mapping, picture: str = '') -> str:
    """The report: the picture, and for time and memory a table with the exponents."""
    named = ', '.join(f'{name} {version}' for name, version in run['versions'].items())
    parts = [f'{run["date"]}; {run["cpu"]}, one thread; load average {run["load"][0]:.1f} at the start and '
             f'{run["load"][1]:.1f} at the end; {named}.']
    if picture:
        parts.append(f'![Time and memory against pixels, logarithmic]({picture})')
    sizes = sorted({point['size'] for point in run['points']})
    for kind, (title, unit, style) in KINDS.items():
        rows = [(MODELS[model], 'whole' if model == 'RTFormer' else PARTS[part],
                 *_cells(own, sizes, kind, unit, style), _rounded(exponent(own, kind)))
                for (model, part), own in curves(run['points']).items()]
        parts += [f'**{title[0].upper()}{title[1:]}**',
                  table(('model', 'part', *(f'{size}²' for size in sizes), f'exponent from {FIT_FROM}²'), rows)]
    notes = [f'- {MODELS[point["model"]]}, {PARTS[point["part"]]}, {point["size"]}²: {point["failure"]}.'
             for point in run['points'] if point['failure']]
    return '\n\n'.join(parts + (['\n'.join(['No figure:', '', *notes])] if notes else []))


def _cells(points: Iterable[Mapping], sizes: Iterable[int], kind: str, unit: float, style: str) -> list[str]:
    found = {point['size']: 'too much' if point['too_much'] else 'failed' if point['failure']
             else format(point[kind] / unit, style) for point in points}
    return [found.get(size, '') for size in sizes]


def _rounded(value: float | None) -> str:
    return '' if value is None else f'{value:.2f}'


def draw(points: Sequence[Mapping], picture: Path) -> None:
    """Time on the left and memory on the right, with the head above and the backbones alone below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from paddleseg_ext.files import atomic_path

    figure = Figure(figsize=(12, 9), layout='constrained')
    panels = figure.subplots(len(PARTS), len(KINDS))
    for row, part in zip(panels, PARTS):
        for axes, (kind, (title, unit, _)) in zip(row, KINDS.items()):
            for color, model in enumerate(MODELS):
                own = curves(points).get((model, part), [])
                shown = [(point['size']**2, point[kind] / unit) for point in own if not point['failure']]
                if shown:
                    label = f'{MODELS[model]}: {_rounded(exponent(own, kind)) or "no fit"}'
                    axes.loglog(*zip(*shown), color=f'C{color}', marker='o', markersize=4, label=label)
            _finish(axes, sorted({point['size'] for point in points}), title, part)
    with atomic_path(picture) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def _finish(axes, sizes: Sequence[int], title: str, part: str) -> None:
    """Titles, and dotted lines that rise with the pixels and with their square."""
    low, high = axes.get_ylim()
    pixels = np.array(sizes, float)**2
    for power in (1, 2):
        axes.loglog(pixels, low * (pixels / pixels[0])**power, ':', color='gray', linewidth=1)
    axes.set(title=f'{title}, {PARTS[part]}', xlabel='pixels (dotted: exponents 1 and 2)', ylim=(low, high))
    axes.set_xticks(pixels, [f'{size}²' for size in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title=f'exponent from {FIT_FROM}²')


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

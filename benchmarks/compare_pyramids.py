"""VTFPN beside SemanticFPN over the same backbone: `python -m benchmarks.compare_pyramids`, or `make bench-pyramids`.

Every model is a process of its own with one thread. The two of a pair run once each in turn, round by round, so that
whatever slows the machine down slows both.

    --json FILE       keeps the measurements; --from FILE makes the report of them and measures nothing
    --document FILE   puts the report between the marks `<!-- pyramids:begin -->` and `<!-- pyramids:end -->`

For a quick look: `--backbones ResNet18 --kinds decode --size 256 --rounds 3`.
"""
from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.compare_backbones import describe_cpu, versions
from benchmarks.report import fill, table
from benchmarks.turns import Child

__all__ = ['BACKBONES', 'HEADS', 'KINDS', 'main', 'parse', 'render']

HEADS = ('SemanticFPN', 'VTFPN')
BACKBONES = ('ResNet18', 'ResNet50', 'VT_ResNet18', 'VT_ResNet50')
KINDS = {'decode': 'pyramid and head alone', 'forward': 'whole model', 'training': 'training step'}
PACKAGES = ('paddlepaddle', 'numpy')


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--backbones', nargs='+', default=list(BACKBONES), metavar='NAME',
                        help=f'default: {" ".join(BACKBONES)}')
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=list(KINDS), metavar='KIND',
                        help=f'default: {" ".join(KINDS)}')
    parser.add_argument('--size', type=int, default=512, help='side of the images in pixels; default: 512')
    parser.add_argument('--batch', type=int, default=2, help='images of a training step; default: 2')
    parser.add_argument('--rounds', type=int, default=5, help='timed runs of each, behind one that is not; default: 5')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the measurements there')
    parser.add_argument('--from', dest='source', type=Path, metavar='FILE', help='measurements of an earlier --json')
    parser.add_argument('--document', type=Path, metavar='FILE', help='Markdown file that takes the report')
    args = parser.parse_args(arguments)
    for name in ('size', 'batch', 'rounds'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} {getattr(args, name)}: expected a whole number of at least 1.')
    return args


def main(arguments: list[str]) -> int:
    from paddleseg_ext.files import atomic_write_text

    args = parse(arguments)
    run = json.loads(args.source.read_text(encoding='utf-8')) if args.source else _run_all(args)
    if args.json:
        atomic_write_text(args.json, json.dumps(run, indent=1))
    if args.document:
        atomic_write_text(args.document, fill(args.document.read_text(encoding='utf-8'), render(run), 'pyramids'))
    return 0


def _run_all(args: argparse.Namespace) -> dict:
    load = os.getloadavg()[0]
    pairs = []
    for kind in args.kinds:
        for backbone in args.backbones:
            pairs.append({'kind': kind, 'backbone': backbone, **_measure(kind, backbone, args)})
            print(*pairs[-1].values(), flush=True)
    return {'date': datetime.date.today().isoformat(), 'cpu': describe_cpu(), 'load': [load, os.getloadavg()[0]],
            'versions': versions(PACKAGES), 'size': args.size, 'batch': args.batch, 'rounds': args.rounds,
            'pairs': pairs}


def _measure(kind: str, backbone: str, args: argparse.Namespace) -> dict:
    """By head: median seconds of the processor, and bytes of the most resident memory."""
    threads = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1')
    children: dict[str, Child] = {}
    with tempfile.TemporaryDirectory(prefix='compare_pyramids_') as folder:
        try:
            for head in HEADS:
                children[head] = Child('pyramid_subject', [kind, head, backbone, args.size, args.batch],
                                       {**threads, 'CUDA_VISIBLE_DEVICES': ''}, Path(folder, head))
                children[head].ask('check')
            rounds = [{head: child.ask('run')['processor_seconds'] for head, child in children.items()}
                      for _ in range(args.rounds)]
            return {head: {'seconds': statistics.median(each[head] for each in rounds),
                           'bytes': child.ask('peak')['bytes']} for head, child in children.items()}
        finally:
            for child in children.values():
                child.close()


def render(run: Mapping) -> str:
    """The report: how it was measured, and a table."""
    named = ', '.join(f'{name} {version}' for name, version in run['versions'].items())
    first, second = HEADS
    rows = [(KINDS[pair['kind']], pair['backbone'],
             *(f'{pair[head]["seconds"] * 1e3:.0f}' for head in HEADS),
             f'{pair[first]["seconds"] / pair[second]["seconds"]:.1f}',
             *(f'{pair[head]["bytes"] / 2**20:.0f}' for head in HEADS)) for pair in run['pairs']]
    header = ('what', 'backbone', *(f'{head}, ms' for head in HEADS), f'{second} is faster by',
              *(f'{head}, MiB' for head in HEADS))
    return '\n\n'.join((
        f'{run["date"]}; {run["cpu"]}, one thread; load average {run["load"][0]:.1f} at the start and '
        f'{run["load"][1]:.1f} at the end; {named}. Images of {run["size"]}², dygraph, float32; a training step with '
        f'AdamW has {run["batch"]}. Median of {run["rounds"]} rounds, time of the processor; most resident memory of '
        'the process, libraries included.', table(header, rows)))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

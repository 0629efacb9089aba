"""Our Twins and XCiT beside timm's on PyTorch: `python -m benchmarks.compare_backbones`, or `make bench`.

Everything measured is a process of its own with the same weights, images and threads. First its output is compared
with timm's; then the processes of a group run once each in turn, round by round, so that whatever slows the machine
down slows all of them. A group is a model, an environment, and either all forward passes or all
training steps.

    --json FILE       keeps the measurements; --from FILE makes the report of them and measures nothing
    --document FILE   puts the report of each family measured, such as XCiT, between the marks
                      `<!-- benchmarks-XCiT:begin -->` and `<!-- benchmarks-XCiT:end -->`, and leaves the others

For a quick look: `--models Twins_SVT_S --paths timm,dygraph,paddle --rounds 3 --environments default`.
"""
from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.turns import Child, ChildFailure

__all__ = ['ENVIRONMENTS', 'MODELS', 'PATHS', 'Measurement', 'by_family', 'describe_cpu', 'main', 'parse', 'versions']

MODELS = ('Twins_PCPVT_S', 'Twins_SVT_S', 'Twins_SVT_B', 'XCiT_N12_P16', 'XCiT_T12_P16', 'XCiT_S12_P16')
FORWARD = ('timm', 'dygraph', 'paddle', 'onnxruntime', 'openvino')
TRAINING = ('timm-train', 'dygraph-train')
PATHS = FORWARD + TRAINING
# The steps of `prepare` that a path needs, in order; every path needs the reference.
NEEDS = {'paddle': ('export',), 'onnxruntime': ('export', 'convert'), 'openvino': ('export', 'convert')}

# What the processes find in their environment, on both sides.
# NOTE: by default glibc gives every large block back to the system when it is freed, and the next operator pays for
# its pages again; the two of 'kept' make it keep them. MKL_DEBUG_CPU_TYPE makes the MKL of 2019 that Paddle brings use
# AVX2 on processors that are not Intel's; PyTorch's is newer and does not read it.
KEPT = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': '100000000000'}
ENVIRONMENTS = {'default': {}, 'kept': KEPT, 'kept+mkl': {**KEPT, 'MKL_DEBUG_CPU_TYPE': '5'}}

TOLERANCE = 1e-3
# NOTE: seconds between turns, because the idle threads of some libraries spin for up to 0.2 s and would slow the next.
PAUSE = 0.25
PACKAGES = ('torch', 'timm', 'paddlepaddle', 'paddle2onnx', 'onnx', 'onnxruntime', 'openvino', 'numpy')


@dataclass
class Measurement:
    """What was found of one path of one group.

    Attributes:
        model, environment, path: as in MODELS, ENVIRONMENTS, PATHS.
        seconds: of each round, by the clock.
        processor_seconds: of each round, of all threads; less disturbed by what else runs on the machine.
        difference: from timm's output, relative.
        peak_bytes: most resident memory while it was checked, warmed up and timed, libraries included.
        failure: why there is no figure; empty where there is.
    """

    model: str
    environment: str
    path: str
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    difference: float | None = None
    peak_bytes: int | None = None
    failure: str = ''


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, lists split and checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', type=_choices(None), default=MODELS, help=f'default: {",".join(MODELS)}')
    parser.add_argument('--paths', type=_choices(PATHS), default=PATHS, help=f'default: {",".join(PATHS)}')
    parser.add_argument('--environments', type=_choices(tuple(ENVIRONMENTS)), default=tuple(ENVIRONMENTS),
                        help=f'variables that are set, see docs/benchmarks.md; default: {",".join(ENVIRONMENTS)}')
    parser.add_argument('--rounds', type=_positive, default=9, help='timed runs of each path; default: 9')
    parser.add_argument('--warmup', type=_positive, default=2, help='untimed runs before them; default: 2')
    parser.add_argument('--threads', type=_positive, default=1, help='of every path; default: 1')
    parser.add_argument('--size', type=_positive, default=512, help='side of the images in pixels; default: 512')
    parser.add_argument('--batch', type=_positive, default=2, help='images of a training step; default: 2')
    parser.add_argument('--no-profiles', dest='profiles', action='store_false', help='do not profile dygraph')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the measurements there')
    parser.add_argument('--from', dest='source', type=Path, metavar='FILE', help='measurements of an earlier --json')
    parser.add_argument('--document', type=Path, metavar='FILE', help='Markdown file that takes the report')
    return parser.parse_args(arguments)


def _choices(known: tuple[str, ...] | None):
    def split(text: str) -> tuple[str, ...]:
        names = tuple(name for name in text.split(',') if name)
        wrong = [name for name in names if known is not None and name not in known]
        if wrong or not names:
            expected = ','.join(known or ('Twins_…', 'XCiT_…'))
            raise argparse.ArgumentTypeError(f'{text!r}: expected names out of {expected}')
        return names
    return split


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a whole number of at least 1')
    return int(text)


def main(arguments: list[str]) -> int:
    from benchmarks.report import fill, render
    from paddleseg_ext.files import atomic_write_text

    args = parse(arguments)
    run = json.loads(args.source.read_text(encoding='utf-8')) if args.source else _run_all(args)
    if args.json:
        atomic_write_text(args.json, json.dumps(run, indent=1))
    if args.document:
        text = args.document.read_text(encoding='utf-8')
        for family, part in by_family(run).items():
            text = fill(text, render(part), f'benchmarks-{family}')
        atomic_write_text(args.document, text)
    return int(any(result['failure'] for result in run['measurements']))


def by_family(run: dict) -> dict[str, dict]:
    """The run of each family alone, 'Twins' and so on."""
    kinds = ('measurements', 'profiles')
    families = dict.fromkeys(result['model'].partition('_')[0] for result in run['measurements'])
    return {family: {**run, **{kind: [result for result in run[kind] if result['model'].startswith(f'{family}_')]
                               for kind in kinds}} for family in families}


def _run_all(args: argparse.Namespace) -> dict:
    """Measure what the command line asks for, and print each group when it is done."""
    load = os.getloadavg()[0]
    results: list[Measurement] = []
    profiles: list[dict] = []
    with tempfile.TemporaryDirectory(prefix='compare_backbones_') as root:
        for model in args.models:
            folder = Path(root, model)
            folder.mkdir()
            failed = prepare(model, folder, args)
            for environment in args.environments:
                for kind in (FORWARD, TRAINING):
                    results += _measure_group(model, environment, [path for path in args.paths if path in kind], failed,
                                              folder, args)
                profiles += _profiles(model, environment, folder, args)
    return {
        'date': datetime.date.today().isoformat(), 'cpu': describe_cpu(), 'load': [load, os.getloadavg()[0]],
        'versions': {'Python': platform.python_version(), **versions()},
        **{name: getattr(args, name) for name in ('threads', 'size', 'batch', 'rounds', 'warmup')},
        'measurements': [asdict(result) for result in results], 'profiles': profiles,
    }


def _measure_group(model: str, environment: str, paths: list[str], failed: dict[str, str], folder: Path,
                   args: argparse.Namespace) -> list[Measurement]:
    group = [Measurement(model, environment, path, failure=failed.get(path, '')) for path in paths]
    measure(group, folder, args)
    for result in group:
        print(line(result, group[0]), flush=True)
    return group


def _profiles(model: str, environment: str, folder: Path, args: argparse.Namespace) -> list[dict]:
    """Where the time of dygraph goes, for each of its paths that was asked for."""
    found = []
    for path in (path for path in args.paths if args.profiles and path.startswith('dygraph')):
        # NOTE: on one thread, so that the shares are those of work and not of what happens to be parallel.
        child = Child('dygraph_profile', [path, model, folder], _environment(1, environment),
                      folder / f'profile_{path}.log')
        found.append({'model': model, 'environment': environment, 'path': path, 'seconds': json.loads(child.wait())})
    return found


def describe_cpu() -> str:
    """The processor's name and cores."""
    information = Path('/proc/cpuinfo')
    text = information.read_text(encoding='utf-8') if information.is_file() else ''
    name = re.search(r'model name\s*:\s*(.+)', text)
    return f'{name[1] if name else platform.processor() or platform.machine()}, {os.cpu_count()} cores'


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Those of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def prepare(model: str, folder: Path, args: argparse.Namespace) -> dict[str, str]:
    """Write what the paths of a model need; the paths for which that failed, with the reason."""
    # NOTE: the reference of training steps costs two of them, so only where one is asked for.
    batch = args.batch if any(path in TRAINING for path in args.paths) else 0
    failed: dict[str, str] = {}
    for step in ('reference', *dict.fromkeys(step for path in args.paths for step in NEEDS.get(path, ()))):
        waiting = [path for path in args.paths if step in NEEDS.get(path, ()) and path not in failed]
        if step != 'reference' and not waiting:
            continue
        try:
            Child('prepare', [step, model, folder, args.size, batch], _environment(args.threads, 'default'),
                  folder / f'{step}.log').wait()
        except ChildFailure as problem:
            if step == 'reference':
                raise
            failed.update({path: f'{step} {problem}' for path in waiting})
    return failed


def _environment(threads: int, environment: str) -> dict[str, str]:
    counts = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), str(threads))
    return {**counts, **ENVIRONMENTS[environment], 'CUDA_VISIBLE_DEVICES': ''}


def measure(group: list[Measurement], folder: Path, args: argparse.Namespace) -> None:
    """Check, warm up and time a group, turn by turn."""
    children: dict[str, Child] = {}
    try:
        for result in group:
            if not result.failure:
                children[result.path] = Child('subject', [result.path, result.model, folder, args.threads],
                                              _environment(args.threads, result.environment),
                                              folder / f'{result.path}.log')
                _try(result, children, _check)
        for round_number in range(args.warmup + args.rounds):
            for result in group:
                _try(result, children, _run if round_number >= args.warmup else _warm)
        for result in group:
            _try(result, children, _read_peak)
    finally:
        for child in children.values():
            child.close()


def _try(result: Measurement, children: dict[str, Child], action) -> None:
    if result.failure:
        return
    try:
        action(result, children[result.path])
    except ChildFailure as problem:
        result.failure = str(problem)


def _check(result: Measurement, child: Child) -> None:
    result.difference = child.ask('check')['difference']
    if not result.difference <= TOLERANCE:
        raise ChildFailure(f'its output differs from timm\'s by {result.difference:.2g}, more than {TOLERANCE:g}')


def _warm(result: Measurement, child: Child) -> None:
    child.ask('run')


def _run(result: Measurement, child: Child) -> None:
    time.sleep(PAUSE)
    answer = child.ask('run')
    result.seconds.append(answer['seconds'])
    result.processor_seconds.append(answer['processor_seconds'])


def _read_peak(result: Measurement, child: Child) -> None:
    result.peak_bytes = child.ask('peak')['bytes']


def line(result: Measurement, reference: Measurement) -> str:
    """One line for whoever watches: the median by the clock and of the processor, each beside timm's."""
    name = f'{result.model:14} {result.environment:8} {result.path:14}'
    if result.failure:
        return f'{name} {result.failure}'
    texts = []
    for kind, label in (('seconds', 'ms'), ('processor_seconds', 'ms of processor')):
        own, others = getattr(result, kind), getattr(reference, kind)
        ratio = f' {statistics.median(own) / statistics.median(others):4.2f}×' if others else ''
        texts.append(f'{statistics.median(own) * 1e3:7.0f} {label}{ratio}')
    return (f'{name} {"  ".join(texts)}  {result.peak_bytes / 2**20:5.0f} MiB  difference {result.difference:.0e}')


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

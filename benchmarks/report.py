"""The report of a comparison: Markdown tables from measurements and from where the time of dygraph goes."""
from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from scripts import write_docs

__all__ = ['fill', 'render', 'table']

NAMES = {
    'timm': 'timm, PyTorch eager', 'dygraph': 'ours, dygraph', 'paddle': 'ours, Paddle Inference with oneDNN',
    'onnxruntime': 'ours, ONNX in onnxruntime', 'openvino': 'ours, ONNX in OpenVINO (f32)',
    'timm-train': 'timm, PyTorch eager', 'dygraph-train': 'ours, dygraph',
}
MOST_ROWS = 12
PROFILES = ("By kernel and by the layer that called it, from Paddle's profiler, whose own work is in the row without a "
            'kernel.')
EXPORTED = ('paddle', 'onnxruntime', 'openvino')
HEADINGS = {
    'default': 'Environment as it is',
    'kept': 'Allocator that keeps what is freed: `MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000`',
    'kept+mkl': "Allocator that keeps what is freed, and Paddle's MKL at its fastest: `MKL_DEBUG_CPU_TYPE=5` as well",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; its first two columns are texts, the others numbers."""
    marks = ['---' if column < 2 else '---:' for column in range(len(head))]
    return '\n'.join(f'| {" | ".join(row)} |' for row in (head, marks, *rows))


def fill(text: str, report: str, mark: str) -> str:
    """The document with the report between `<!-- MARK:begin … -->` and `<!-- MARK:end -->`.

    Raises:
        ValueError: the document does not have these marks once.
    """
    return write_docs.fill(text, {mark: f'\n{report}\n'})


def render(run: Mapping) -> str:
    """The whole report of what `compare_backbones --json` wrote."""
    measurements = run['measurements']
    parts = [_circumstances(run)]
    for environment in dict.fromkeys(result['environment'] for result in measurements):
        own = [result for result in measurements if result['environment'] == environment]
        parts.append(f'### {HEADINGS[environment]}')
        for title, training in (('Forward pass, batch 1', False), (f'Training step, batch {run["batch"]}', True)):
            rows = [result for result in own if result['path'].endswith('-train') == training]
            if rows:
                parts += [f'**{title}**', _times(rows)]
                parts += [] if training else [_best(rows)]
    if run.get('profiles'):
        parts += ['### Where the time goes in dygraph', PROFILES, *(_profile(profile) for profile in run['profiles'])]
    return '\n\n'.join(part for part in parts if part)


def _circumstances(run: Mapping) -> str:
    versions = ', '.join(f'{name} {version}' for name, version in run['versions'].items())
    return (f'{run["date"]}; {run["cpu"]}, {run["threads"]} thread{"s" * (run["threads"] > 1)}; images '
            f'{run["size"]}×{run["size"]}; {run["rounds"]} rounds after {run["warmup"]}; load average '
            f'{run["load"][0]:.1f} at the start and {run["load"][1]:.1f} at the end.\n\n{versions}.')


def _times(results: Sequence[Mapping]) -> str:
    rows = []
    for result in results:
        name = NAMES[result['path']]
        if result['failure']:
            rows.append((result['model'], name, f'no figure: {result["failure"]}', '', '', '', '', ''))
            continue
        low, _, high = _quartiles(result['seconds'])
        ratios = [median_ratio(result, results, kind) for kind in ('seconds', 'processor_seconds')]
        rows.append((result['model'], name, f'{statistics.median(result["seconds"]) * 1e3:.0f}',
                     f'{low * 1e3:.0f}–{high * 1e3:.0f}',
                     *('' if ratio is None else f'{ratio:.2f}' for ratio in ratios),
                     f'{result["peak_bytes"] / 2**20:.0f}', f'{result["difference"]:.0e}'))
    return table(('model', 'path', 'median, ms', 'quartiles, ms', 'times timm', 'processor time, times timm',
                  'peak memory, MiB', 'difference'), rows)


def _quartiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    if len(seconds) == 1:
        return seconds[0], seconds[0], seconds[0]
    low, middle, high = statistics.quantiles(seconds, n=4, method='inclusive')
    return low, middle, high


def median_ratio(result: Mapping, results: Sequence[Mapping], kind: str = 'seconds') -> float | None:
    """The median over the rounds of this path's time over timm's in the same round; None without timm's.

    `kind` is `seconds` by the clock or `processor_seconds`.
    """
    reference = next((other for other in results if other['model'] == result['model']
                      and other['path'].startswith('timm') and not other['failure']), None)
    if reference is None or result['failure']:
        return None
    return statistics.median(own / other for own, other in zip(result[kind], reference[kind]))


def _best(results: Sequence[Mapping]) -> str:
    """A sentence: the fastest exported path of each model."""
    sentences = []
    for model in dict.fromkeys(result['model'] for result in results):
        ratios = {result['path']: median_ratio(result, results) for result in results
                  if result['model'] == model and result['path'] in EXPORTED}
        known = {path: ratio for path, ratio in ratios.items() if ratio is not None}
        if known:
            path = min(known, key=known.get)
            sentences.append(f'{model} {known[path]:.2f} ({path})')
    return f'Best exported path, times timm: {", ".join(sentences)}.' if sentences else ''


def _profile(profile: Mapping) -> str:
    total = sum(profile['seconds'].values())
    rows = sorted(profile['seconds'].items(), key=lambda item: -item[1])
    main, small = rows[:MOST_ROWS], rows[MOST_ROWS:]
    if small:
        main.append((f'{len(small)} others', sum(seconds for _, seconds in small)))
    cells = [(*name.partition(' in ')[::2], f'{seconds * 1e3:.0f}', f'{seconds / total:.0%}') for name, seconds in main]
    kind = 'training step' if profile['path'].endswith('-train') else 'forward pass'
    return (f'{profile["model"]}, {kind}, environment {profile["environment"]}, one thread, {total * 1e3:.0f} ms:\n\n'
            + table(('kernel', 'in', 'ms', 'share'), cells))

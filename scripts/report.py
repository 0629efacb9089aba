"""The demo's `report.html`: figures, pictures, curves, timings, versions and commands on one page of its own."""
from __future__ import annotations

import base64
import os
import platform
from collections.abc import Sequence
from html import escape
from pathlib import Path

from paddleseg_ext import __version__, environment
from paddleseg_ext.files import atomic_write_text

__all__ = ['write_report']

STYLE = Path(__file__).with_name('report.css')


def write_report(folder: Path, stages: Sequence, results: dict) -> Path:
    """Write `folder/report.html`; pictures are inside it, so the file can be sent alone.

    Args:
        folder: the demo's folder with `contact_sheet.png`, `loss.png` and `miou.png`.
        stages: in order, each with `title`, `commands`, `output` and `seconds`.
        results: 'before' and 'after' (the metrics.json of `val` and `infer`), 'differing_pixels' (a share), 'seconds',
            'quick'.

    Returns:
        the file's path.
    """
    parts = [_head(results), _figures(results), _pictures(folder), _classes(results), _curves(folder),
             _export(stages, results), _times(stages, results), _commands(stages), _versions()]
    page = ('<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<title>paddleseg_ext demo</title>\n<style>\n{STYLE.read_text(encoding="utf-8")}</style>\n'
            '<main>\n' + '\n'.join(parts) + '\n</main>\n</html>\n')
    path = folder / 'report.html'
    atomic_write_text(path, page)
    return path


def _head(results: dict) -> str:
    note = ''
    if results['quick']:
        note = '<p><strong>A quick run of a few steps: it shows that everything works, not how good it is.</strong></p>'
    return ('<h1>RTFormer-Slim on synthetic street scenes</h1>'
            '<p class="soft">Trained from scratch on this machine, evaluated, exported, and run again with Paddle '
            f'Inference: what <code>make demo</code> did.</p>{note}')


def _figures(results: dict) -> str:
    before, after = results['before'], results['after']
    figures = [
        (f'{before["miou"]:.4f}', f'validation mIoU over {before["images"]} images'),
        (f'{100 * before["accuracy"]:.1f} %', 'of the pixels are right'),
        (f'{after["miou"]:.4f}', 'mIoU of the exported program'),
        (f'{results["seconds"] / 60:.1f} min', 'for everything on this page'),
    ]
    return '<div class="figures">' + ''.join(f'<div class="figure"><b>{escape(value)}</b>{escape(text)}</div>'
                                             for value, text in figures) + '</div>'


def _pictures(folder: Path) -> str:
    return _section('Image, truth, prediction', _image(folder / 'contact_sheet.png', 'contact sheet'))


def _classes(results: dict) -> str:
    from paddleseg_ext.data.synth import SCENE_CLASS_COLORS
    rows = []
    for row in results['before']['classes']:
        color = '#' + ''.join(f'{value:02x}' for value in SCENE_CLASS_COLORS[row['id']])
        rows.append(f'<tr><td><span class="swatch" style="background:{color}"></span>{escape(row["name"])}</td>'
                    f'<td class="bar"><div style="width:{100 * row["iou"]:.1f}%"></div></td>'
                    + ''.join(f'<td>{row[key]:.3f}</td>' for key in ('iou', 'precision', 'recall'))
                    + f'<td>{100 * row["share"]:.1f} %</td></tr>')
    header = _header('class', '', 'IoU', 'precision', 'recall', 'share of pixels')
    return _section('By class', f'<div class="wide"><table>{header}{"".join(rows)}</table></div>')


def _curves(folder: Path) -> str:
    images = ''.join(_image(folder / name, text) for name, text in (('loss.png', 'training loss'),
                                                                    ('miou.png', 'validation mIoU')))
    return _section('Training', f'<div class="pair">{images}</div>')


def _export(stages: Sequence, results: dict) -> str:
    difference = abs(results['before']['miou'] - results['after']['miou'])
    latency = _paragraph(stages[-1].output, 'latency', last='together')
    comparison = _paragraph(stages[-2].output, 'exported program against the model')
    return _section('The exported program', (
        f'<p>Its mIoU differs from the model\'s by {difference:.6f}, and {100 * results["differing_pixels"]:.4f} % of '
        'the pixels of all validation images get another label.</p>'
        + ''.join(f'<pre>{escape(text)}</pre><p></p>' for text in (comparison, latency) if text)))


def _paragraph(output: str, start: str, last: str = '') -> str:
    """Lines of a command's output from the one that begins with `start` to a blank one, or to one that begins with
    `last`; empty where there are none."""
    lines = output.splitlines()
    first = next((index for index, line in enumerate(lines) if line.startswith(start)), len(lines))
    kept = []
    for line in lines[first:]:
        if not line:
            break
        kept.append(line)
        if last and line.startswith(last):
            break
    return '\n'.join(kept)


def _times(stages: Sequence, results: dict) -> str:
    rows = ''.join(f'<tr><td>{escape(stage.title)}</td><td>{stage.seconds:.1f} s</td></tr>' for stage in stages)
    total = f'<tr><td><strong>everything</strong></td><td><strong>{results["seconds"]:.1f} s</strong></td></tr>'
    return _section('Where the time went', f'<table>{_header("stage", "time")}{rows}{total}</table>')


def _commands(stages: Sequence) -> str:
    lines = [line for stage in stages for line in stage.commands]
    return _section('The commands', '<p>Each was run in the folder of this file.</p>'
                    f'<pre>{escape(chr(10).join(lines))}</pre>')


def _versions() -> str:
    names = ('paddlepaddle', 'paddlepaddle-gpu', 'paddleseg', 'numpy', 'opencv-python')
    found = [('Python', platform.python_version()), ('paddleseg_ext', __version__),
             *((name, environment.installed_version(name)) for name in names),
             ('machine', f'{platform.system()} {platform.machine()}, {_cores()} cores usable')]
    rows = ''.join(f'<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>' for name, value in found if value)
    return _section('Versions', f'<table>{rows}</table>')


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _section(title: str, body: str) -> str:
    return f'<section><h2>{escape(title)}</h2>{body}</section>'


def _header(*names: str) -> str:
    return '<tr>' + ''.join(f'<th>{escape(name)}</th>' for name in names) + '</tr>'


def _image(path: Path, text: str) -> str:
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'

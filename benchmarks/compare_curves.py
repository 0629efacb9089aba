"""Draw and tabulate the curves of trainings: `python -m benchmarks.compare_curves PICTURE NAME=RUN_FOLDER …`."""
from __future__ import annotations

import sys
from pathlib import Path

from paddleseg_ext.engine.recording import read_records
from paddleseg_ext.files import atomic_path


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or not all('=' in run for run in arguments[1:]):
        print(__doc__, file=sys.stderr)
        return 2
    runs = {name: read_records(Path(folder)) for name, folder in (run.split('=', 1) for run in arguments[1:])}
    draw(Path(arguments[0]), runs)
    print(table(runs))
    return 0


def points(records: list[dict], key: str) -> list[tuple[int, float]]:
    return [(record['iteration'], record[key]) for record in records if key in record]


def draw(picture: Path, runs: dict[str, list[dict]]) -> None:
    """Loss on the left, validation mIoU on the right, one line a run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(11, 4), layout='constrained')
    for position, (key, label) in enumerate((('loss', 'training loss'), ('miou', 'validation mIoU')), 1):
        axes = figure.add_subplot(1, 2, position)
        for name, records in runs.items():
            axes.plot(*zip(*points(records, key)), label=name, marker='o' if key == 'miou' else None, markersize=4)
        axes.set(xlabel='iteration', ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_path(picture) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def table(runs: dict[str, list[dict]]) -> str:
    """Validation mIoU of every run by iteration, as a Markdown table."""
    scores = {name: dict(points(records, 'miou')) for name, records in runs.items()}
    iterations = sorted(set().union(*scores.values()))
    lines = ['| iteration | ' + ' | '.join(scores) + ' |', '| --- |' + ' --- |' * len(scores)]
    for iteration in iterations:
        cells = (f'{run[iteration]:.4f}' if iteration in run else '' for run in scores.values())
        lines.append(f'| {iteration} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

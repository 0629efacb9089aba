"""What a training leaves to read: `metrics.jsonl`, log lines, a progress bar, VisualDL and curves."""
from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from paddleseg_ext.files import atomic_path, atomic_write_text

__all__ = ['Recorder', 'draw_curves', 'read_records']

METRICS_FILE = 'metrics.jsonl'
log = logging.getLogger('paddleseg_ext')


class Recorder:
    """Writes the course of one training; on ranks other than 0 it writes nothing.

    Args:
        save_dir: where `metrics.jsonl`, `loss.png` and `miou.png` go.
        start, stop: iterations before the first step and after the last.
        batch_size: images a step over all ranks, for the throughput.
        active: False on ranks other than 0.
        use_vdl: also write VisualDL logs to `save_dir`.
    """

    def __init__(self, save_dir: Path, *, start: int, stop: int, batch_size: int, active: bool, use_vdl: bool):
        self.save_dir, self.stop, self.batch_size, self.active = save_dir, stop, batch_size, active
        self.started, self.steps = time.perf_counter(), 0
        self.bar = self.vdl = None
        if not active:
            return
        from tqdm import tqdm
        save_dir.mkdir(parents=True, exist_ok=True)
        self._forget_after(start)
        self.bar = tqdm(total=stop, initial=start, desc='train', unit='step', disable=None, dynamic_ncols=True)
        if use_vdl:
            from visualdl import LogWriter
            self.vdl = LogWriter(str(save_dir))

    def _forget_after(self, start: int) -> None:
        # A resumed training repeats the steps after its checkpoint; what was noted of them the first time goes.
        file = self.save_dir / METRICS_FILE
        if file.exists():
            kept = [record for record in read_records(self.save_dir) if record['iteration'] <= start]
            atomic_write_text(file, ''.join(json.dumps(record) + '\n' for record in kept))

    def step(self) -> None:
        self.steps += 1
        if self.bar is not None:
            self.bar.update()

    def restart_clock(self) -> None:
        """Leave the time since the last record (an evaluation, a save) out of the throughput."""
        self.started, self.steps = time.perf_counter(), 0

    def losses(self, iteration: int, losses: list[float], learning_rate: float) -> None:
        """Note the mean losses since the last note; the first entry is their sum, then one an output."""
        elapsed = max(time.perf_counter() - self.started, 1e-9)
        speed = self.steps * self.batch_size / elapsed
        self._write({'iteration': iteration, 'loss': losses[0], 'losses': losses[1:], 'lr': learning_rate,
                     'images_per_second': round(speed, 3), 'time': round(time.time(), 1)})
        if self.active:
            remaining = (self.stop - iteration) * elapsed / max(self.steps, 1)
            self.bar.set_postfix_str(f'loss {losses[0]:.4f}, lr {learning_rate:.2e}, {speed:.1f} images/s')
            self._say(f'iteration {iteration}/{self.stop}: loss {losses[0]:.4f}, lr {learning_rate:.3e}, '
                      f'{speed:.2f} images/s, {_duration(remaining)} left')
            self._visualdl('Train', iteration, {'loss': losses[0], 'lr': learning_rate, 'images_per_second': speed})
        self.restart_clock()

    def scores(self, iteration: int, scores: dict[str, float], *, best: bool) -> None:
        """Note a validation; `scores` has at least 'miou'."""
        self._write({'iteration': iteration, **scores})
        if self.active:
            figures = ', '.join(f'{name} {value:.4f}' for name, value in scores.items())
            self._say(f'iteration {iteration}/{self.stop}: validation {figures}{" (best so far)" if best else ""}')
            self._visualdl('Evaluate', iteration, scores)
            draw_curves(self.save_dir)

    def close(self) -> None:
        if not self.active:
            return
        self.bar.close()
        if self.vdl is not None:
            self.vdl.close()
        draw_curves(self.save_dir)

    def _write(self, record: dict) -> None:
        if self.active:
            with open(self.save_dir / METRICS_FILE, 'a', encoding='utf-8') as file:
                file.write(json.dumps(record) + '\n')

    def _say(self, text: str) -> None:
        from tqdm.contrib.logging import logging_redirect_tqdm
        with logging_redirect_tqdm(loggers=[log]):
            log.info(text)

    def _visualdl(self, group: str, iteration: int, values: dict[str, float]) -> None:
        if self.vdl is not None:
            for name, value in values.items():
                self.vdl.add_scalar(f'{group}/{name}', value, iteration)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}'


def read_records(save_dir: Path) -> list[dict]:
    """The records of `metrics.jsonl`, in order; a last line that was cut short by a crash is left out."""
    records = []
    for line in (save_dir / METRICS_FILE).read_text(encoding='utf-8').splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def draw_curves(save_dir: Path) -> None:
    """Draw `loss.png` and, once there was a validation, `miou.png` from `metrics.jsonl`."""
    if not (save_dir / METRICS_FILE).exists():
        return
    records = read_records(save_dir)
    for name, label in (('loss', 'training loss'), ('miou', 'validation mIoU')):
        points = [(record['iteration'], record[name]) for record in records if name in record]
        if points:
            _draw_curve(save_dir / f'{name}.png', points, label)


def _draw_curve(file: Path, points: list[tuple[int, float]], label: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(7, 4), layout='constrained')
    axes = figure.add_subplot()
    axes.plot(*zip(*points), marker='o' if len(points) < 30 else None, markersize=4)
    axes.set(xlabel='iteration', ylabel=label)
    axes.grid(alpha=0.3)
    with atomic_path(file) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))

"""`make demo`: the whole way, from nothing to an exported program at work, with the commands a user would type.

    python -m scripts.demo [--save_dir demo] [--iters N] [--quick]

Writes the embedded data set, trains RTFormer-Slim briefly, evaluates, predicts, exports, runs the exported program with
Paddle Inference, and leaves pictures, curves and `report.html` in the folder. Ends with 1 if a step fails or the result
is not good enough.
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from scripts.report import write_report

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'rtformer_slim_scenes_quickstart'
SCENES = ('--train', '400', '--val', '50', '--width', '256', '--height', '160')
QUICK_SCENES = ('--train', '4', '--val', '2', '--width', '96', '--height', '64')
EMA_DECAY = '0.98'
SAVE_INTERVAL = 125
REQUIRED_MIOU = 0.60
# The exported program may differ from the model by rounding only.
ALLOWED_DIFFERENCE = 0.001
MARKER = 'demo.json'
# What a demo leaves in its folder, and so what the next one may remove.
MADE = ('data', 'train', 'val', 'predict', 'export', 'infer', 'loss.png', 'miou.png', 'contact_sheet.png',
        'report.html', MARKER)
INTERRUPTED = 130


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


@dataclass
class Stage:
    """One numbered part of the demo: its title, the commands it ran, what they printed and the seconds they took."""

    title: str
    commands: list[str] = field(default_factory=list)
    output: str = ''
    seconds: float = 0.


def main() -> int:
    """Run the demo; 0, 1 when a step failed or the result is not good enough, 130 when interrupted."""
    args = _parse()
    try:
        _Demo(args).run()
    except DemoError as error:
        print(f'\ndemo: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ndemo: interrupted', file=sys.stderr)
        return INTERRUPTED
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--save_dir', type=Path, default=Path('demo'), help='folder to fill')
    parser.add_argument('--iters', type=int, help='training steps, in place of the configuration\'s')
    parser.add_argument('--quick', action='store_true',
                        help='a few images and steps only, to see that everything runs; the result is not judged')
    return parser.parse_args()


class _Demo:
    def __init__(self, args: argparse.Namespace):
        self.folder: Path = args.save_dir.resolve()
        self.shown = args.save_dir
        self.quick = args.quick
        self.iters = args.iters or (2 if args.quick else None)
        self.stages: list[Stage] = []
        self.start = time.monotonic()

    def run(self) -> None:
        clean(self.folder)
        plan = self._plan()
        for number, (title, commands) in enumerate(plan, 1):
            self._stage(f'[{number}/{len(plan) + 1}] {title}', commands)
        print(f'\n[{len(plan) + 1}/{len(plan) + 1}] Drawing the pictures and the report', flush=True)
        results = self._results()
        self._judge(results)

    def _plan(self) -> list[tuple[str, list[list[str]]]]:
        """Titles and commands of the stages; every command runs in the demo's folder."""
        scenes = QUICK_SCENES if self.quick else SCENES
        steps = []
        if self.iters:
            steps = ['--iters', str(self.iters), '--opts', f'lr_scheduler.warmup_iters={max(self.iters // 15, 1)}']
        every = ['--save_interval', str(max(self.iters // 5, 1) if self.iters else SAVE_INTERVAL)]
        config, weights = ['--config', CONFIG], ['--model_path', 'train/best_model']
        images = ['--image_path', 'data/scenes/val.txt']
        return [
            ('Writing street scenes with exact labels', [['data', 'synth', *scenes], ['data', 'check', *config]]),
            ('Checking the configuration', [['config', 'check', *config]]),
            ('Training RTFormer-Slim from scratch: a few minutes on two cores', [
                ['train', *config, *steps, '--do_eval', '--use_ema', '--ema_decay', EMA_DECAY, '--seed', '0', *every,
                 '--log_iters', '20', '--val_batch_size', '4', '--keep_checkpoint_max', '1', '--save_dir', 'train']]),
            ('Evaluating the best weights', [['val', *config, *weights, '--batch_size', '4', '--save_dir', 'val']]),
            ('Predicting the validation images', [['predict', *config, *weights, *images, '--save_dir', 'predict']]),
            ('Exporting for Paddle Inference, and comparing with the model', [
                ['export', *config, *weights, '--save_dir', 'export']]),
            ('Running the exported program on the same images', [
                ['infer', '--config', 'export/deploy.yaml', *images, '--evaluate', '--warmup', '3',
                 '--save_dir', 'infer']]),
        ]

    def _stage(self, title: str, commands: list[list[str]]) -> None:
        print(f'\n{title}', flush=True)
        stage = Stage(title.split('] ', 1)[1])
        self.stages.append(stage)
        start = time.monotonic()
        for command in commands:
            text = ' '.join(['paddleseg', *command])
            print(f'  in {self.shown}: {text}', flush=True)
            stage.commands.append(text)
            stage.output += self._call(command, text)
        stage.seconds = time.monotonic() - start
        print(f'  done in {stage.seconds:.0f} s', flush=True)

    def _call(self, command: list[str], text: str) -> str:
        """Run a verb in the demo's folder, echo its output line by line, and return it."""
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
        environment = {**os.environ, 'PYTHONPATH': paths, 'PYTHONUNBUFFERED': '1'}
        lines = []
        with subprocess.Popen([sys.executable, '-m', 'paddleseg_ext', *command], cwd=self.folder, env=environment,
                              stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                lines.append(line)
                print(f'    {line}', end='', flush=True)
        if process.returncode:
            raise DemoError(f'`{text}` (in {self.shown}) failed with exit code {process.returncode}; its messages are '
                            'above.')
        return ''.join(lines)

    def _results(self) -> dict:
        for name in ('loss.png', 'miou.png'):
            shutil.copyfile(self.folder / 'train' / name, self.folder / name)
        results = {'quick': self.quick, 'seconds': time.monotonic() - self.start,
                   'before': read_json(self.folder / 'val/metrics.json'),
                   'after': read_json(self.folder / 'infer/metrics.json'),
                   'differing_pixels': share_of_differing_pixels(self.folder)}
        draw_contact_sheet(self.folder)
        write_report(self.folder, self.stages, results)
        summary = {'made_by': 'scripts.demo', 'miou': results['before']['miou'],
                   'miou_exported': results['after']['miou'], 'differing_pixels': results['differing_pixels'],
                   'seconds': round(results['seconds'], 1),
                   'stages': {stage.title: round(stage.seconds, 1) for stage in self.stages}}
        (self.folder / MARKER).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
        return results

    def _judge(self, results: dict) -> None:
        before, after = (results[name]['miou'] for name in ('before', 'after'))
        print(f'\nValidation mIoU {before:.4f}; of the exported program {after:.4f}. '
              f'Everything took {results["seconds"] / 60:.1f} minutes.\n'
              f'Look at\n  {self.shown}/report.html        everything on one page\n'
              f'  {self.shown}/contact_sheet.png  image, truth and prediction side by side\n'
              f'  {self.shown}/predict, {self.shown}/infer     masks and overlays of every image')
        if abs(before - after) > ALLOWED_DIFFERENCE:
            raise DemoError(f'the exported program has another mIoU ({after:.4f}) than the model ({before:.4f}).')
        if not self.quick and before < REQUIRED_MIOU:
            raise DemoError(f'validation mIoU {before:.4f} is below {REQUIRED_MIOU}, which this training should reach: '
                            'see the curves in the report, and `paddleseg doctor`.')


def clean(folder: Path) -> None:
    """Make `folder` ready: removes what an earlier demo left, and nothing else.

    Raises:
        DemoError: the folder holds things and no mark of a demo.
    """
    marker = folder / MARKER
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not marker.exists())):
        raise DemoError(f'{folder} is there and was not made by a demo; move it away, or name another with --save_dir.')
    folder.mkdir(parents=True, exist_ok=True)
    # NOTE: the marker goes last and comes back first, so that a demo killed at any moment can be started again.
    for name in MADE:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif name != MARKER:
            path.unlink(missing_ok=True)
    marker.write_text('{"made_by": "scripts.demo"}\n', encoding='utf-8')


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding='utf-8'))


def _mask_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Id masks of `predict` with those of `infer` for the same image."""
    predicted = sorted((folder / 'predict/label_ids').rglob('*.png'))
    return [(path, folder / 'infer/label_ids' / path.relative_to(folder / 'predict/label_ids')) for path in predicted]


def share_of_differing_pixels(folder: Path) -> float:
    """Share of the pixels that the model and the exported program label differently, over all validation images."""
    import numpy as np
    from PIL import Image
    differing = total = 0
    for first, second in _mask_pairs(folder):
        masks = [np.asarray(Image.open(path)) for path in (first, second)]
        differing += int((masks[0] != masks[1]).sum())
        total += masks[0].size
    return differing / total


def draw_contact_sheet(folder: Path, *, rows: int = 5) -> None:
    """`contact_sheet.png`: some validation images, spread over the list, with their truth and prediction."""
    import numpy as np
    from PIL import Image

    from paddleseg_ext.data.render import contact_sheet
    from paddleseg_ext.data.synth import SCENE_CLASSES
    scenes = folder / 'data/scenes'
    pairs = [line.split() for line in (scenes / 'val.txt').read_text(encoding='utf-8').splitlines()]
    chosen = [pairs[index] for index in np.linspace(0, len(pairs) - 1, min(rows, len(pairs))).astype(int)]
    cells, titles = [], []
    for image, label in chosen:
        truth, found = Image.open(scenes / label), Image.open(folder / 'predict/pseudo_color_prediction' / image)
        cells.append([Image.open(scenes / image).convert('RGB'), truth, found])
        right = np.mean(np.asarray(truth) == np.asarray(found))
        titles.append(f'{Path(image).stem}: {100 * right:.1f} % of the pixels are right')
    sheet = contact_sheet(cells, ['image', 'truth', 'prediction'], titles=titles, legend=SCENE_CLASSES, tile_width=360)
    sheet.save(folder / 'contact_sheet.png', optimize=True)


if __name__ == '__main__':
    sys.exit(main())

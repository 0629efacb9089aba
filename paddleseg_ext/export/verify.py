"""Does the exported program compute what the model computes? Run both, and compare.

Both get the same seeded random images, distributed like normalised ones: smooth colours with noise on top. Compared are

- the scores: the largest absolute difference, and that divided by the largest absolute score of the model, which must
  be at most `TOLERANCE`. A program that gives labels is traced a second time with its logits for this;
- the labels: a pixel may carry another class only if the model itself scores both classes equal within twice the
  tolerance, so that rounding decides.
"""
from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle

from paddleseg_ext.engine.forward import predict_logits
from paddleseg_ext.environment import onednn_inference_works
from paddleseg_ext.errors import UserError
from paddleseg_ext.export.program import save_program, shape_advice
from paddleseg_ext.inference.paddle_runner import PaddleOptions, PaddleRunner

__all__ = ['BATCHES', 'SIZES', 'TOLERANCE', 'Comparison', 'Verification', 'compare', 'sample_images', 'table', 'verify']

TOLERANCE = 1e-4

BATCHES = (1, 2)
# (height, width): one divisible by 32, one odd in both, one wider than high.
SIZES = ((64, 96), (75, 101), (96, 224))


class Verification(NamedTuple):
    """What `verify` found: the comparisons, and whether oneDNN computes the program rightly (None: unusable here)."""

    comparisons: list
    onednn: bool | None


class _Programs(NamedTuple):
    """What is compared: the program as it will be used, one that gives scores, and what they take."""

    program: Path
    scores_program: Path
    output_op: str
    input_shape: tuple


@dataclass(frozen=True)
class Comparison:
    """One batch through both.

    Attributes:
        shape: `[N, C, H, W]` of the images.
        absolute: largest absolute difference of the scores.
        relative: the same over the largest absolute score of the model.
        pixels: pixels compared.
        changed: pixels whose labels differ.
        wrong: those among them that rounding does not explain.
        skipped: why the model itself could not be asked; empty when it could.
        failure: why the program gave nothing comparable although the model did; empty when it did.
    """

    shape: tuple
    absolute: float = 0.0
    relative: float = 0.0
    pixels: int = 0
    changed: int = 0
    wrong: int = 0
    skipped: str = ''
    failure: str = ''

    @property
    def passed(self) -> bool:
        # NOTE: written so that a NaN fails.
        return bool(self.skipped) or (not self.failure and self.relative <= TOLERANCE and self.wrong == 0)


def table(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as text, a line each."""
    lines = [f'{"images":>18}{"max abs":>11}{"max rel":>11}{"labels equal":>14}{"wrong":>7}']
    for one in comparisons:
        shape = '×'.join(map(str, one.shape))
        if one.skipped or one.failure:
            lines.append(f'{shape:>18}  {"FAILED" if one.failure else "not compared"}: {one.skipped or one.failure}')
            continue
        equal = 100 * (1 - one.changed / max(one.pixels, 1))
        lines.append(f'{shape:>18}{one.absolute:11.2e}{one.relative:11.2e}{equal:13.3f}%{one.wrong:7d}'
                     f'{"" if one.passed else "  FAILED"}')
    return '\n'.join(lines)


def sample_images(shape: Sequence[int], *, seed: int = 0) -> np.ndarray:
    """Random images float32 `[N, C, H, W]`, mean about 0 and deviation about 1: a coarse pattern plus noise."""
    generator = np.random.default_rng([seed, *shape])
    batch, channels, height, width = shape
    coarse = generator.standard_normal((batch, channels, -(-height // 16), -(-width // 16)))
    smooth = coarse.repeat(16, axis=2).repeat(16, axis=3)[:, :, :height, :width]
    return (0.9 * smooth + 0.4 * generator.standard_normal(shape)).astype(np.float32)


def compare(scores: np.ndarray, expected: np.ndarray, labels: np.ndarray, shape: Sequence[int]) -> Comparison:
    """Compare scores `[N, classes, H, W]` and labels `[N, H, W]` of the program with the model's scores."""
    largest = max(float(np.abs(expected).max()), np.finfo(np.float32).tiny)
    absolute = float(np.abs(scores - expected).max())
    changed = labels != expected.argmax(axis=1)
    gap = expected.max(axis=1) - np.take_along_axis(expected, labels[:, None].astype(np.int64), axis=1)[:, 0]
    wrong = changed & ~(gap <= 2 * TOLERANCE * largest)
    return Comparison(tuple(shape), absolute, absolute / largest, labels.size, int(changed.sum()), int(wrong.sum()))


def verify(model: paddle.nn.Layer, program: Path, *, output_op: str, input_shape: Sequence[int]) -> Verification:
    """Run the program and the model it was made from side by side, on the CPU where Paddle Inference is concerned.

    Args:
        model: the segmentor; its training mode is put back afterwards.
        program: the program's file, its weights beside it.
        output_op: what the program gives: `argmax`, `softmax` or `none`.
        input_shape: `[N, C, H, W]` of the program, -1 where any value goes.

    Returns:
        a comparison per batch and size; a size that the model itself refuses is listed as skipped. When the program is
        right only without oneDNN, that is said, and the comparisons are those without.

    Raises:
        UserError: the program fails or differs where the model runs, with oneDNN and without, or no size could be
            compared.
    """
    with tempfile.TemporaryDirectory() as scratch, _evaluating(model):
        scores_program = program
        if output_op == 'argmax':
            scores_program = save_program(model, Path(scratch) / 'scores', output_op='none', input_shape=input_shape)
        programs = _Programs(program, scores_program, output_op, tuple(input_shape))
        comparisons = _run_all(model, programs, onednn=None)
        onednn = True if onednn_inference_works(paddle.__version__) else None
        if onednn and not all(one.passed for one in comparisons):
            # NOTE: oneDNN of Paddle 3.2.2 computes another resize for align_corners=True and for nearest neighbour at
            # a fractional scale, without a word, and fails on channels-last convolutions; without it all are right.
            without = _run_all(model, programs, onednn=False)
            if all(one.passed for one in without):
                comparisons, onednn = without, False
    _require_agreement(model, input_shape, comparisons)
    return Verification(comparisons, onednn)


@contextmanager
def _evaluating(model: paddle.nn.Layer) -> Iterator[None]:
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def _run_all(model: paddle.nn.Layer, programs: _Programs, *, onednn: bool | None) -> list[Comparison]:
    options = PaddleOptions(onednn=onednn)
    with closing(_runner(programs.program, options)) as runner:
        scorer = runner
        if programs.scores_program != programs.program:
            scorer = _runner(programs.scores_program, options)
        with closing(scorer):
            return [_compare_one(model, programs, runner, scorer, shape) for shape in _shapes(programs.input_shape)]


def _runner(program: Path, options: PaddleOptions) -> PaddleRunner:
    return PaddleRunner(program, program.with_suffix('.pdiparams'), options)


def _shapes(input_shape: Sequence[int]) -> list:
    """The shapes to try: every batch at every size, fixed sides as they are."""
    shapes = []
    for height, width in SIZES:
        for batch in BATCHES:
            wanted = (batch, input_shape[1], height, width)
            shape = tuple(fixed if fixed > 0 else free for fixed, free in zip(input_shape, wanted))
            if shape not in shapes:
                shapes.append(shape)
    return shapes


def _compare_one(model: paddle.nn.Layer, programs: _Programs, runner: PaddleRunner, scorer: PaddleRunner,
                 shape: tuple) -> Comparison:
    images = sample_images(shape)
    try:
        expected = predict_logits(model, images)
    except Exception as problem:  # whatever the model raises for a size it does not take
        return Comparison(shape, skipped=f'the model does not take this size ({_last_line(problem)})')
    if programs.output_op == 'softmax':
        expected = paddle.nn.functional.softmax(expected, axis=1)
    expected = expected.numpy()
    try:
        output = runner.run(images)
        scores = scorer.run(images) if scorer is not runner else output
    except (RuntimeError, ValueError, OSError) as problem:
        return Comparison(shape, failure=f'the program does not take this size ({_last_line(problem)})')
    labels = output if programs.output_op == 'argmax' else output.argmax(axis=1)
    if scores.shape != expected.shape or labels.shape != expected[:, 0].shape:
        return Comparison(shape, failure=f'the program gives {list(scores.shape)}, the model {list(expected.shape)}')
    return compare(scores, expected, labels, shape)


def _last_line(problem: Exception) -> str:
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return lines[-1].strip()[:120]


def _require_agreement(model: paddle.nn.Layer, input_shape: Sequence[int], comparisons: list[Comparison]) -> None:
    if all(one.skipped for one in comparisons):
        raise UserError(f'{type(model).__name__} takes none of the sizes that were tried, so the export cannot be '
                        f'verified:\n{table(comparisons)}{shape_advice(input_shape)}')
    if not all(one.passed for one in comparisons):
        raise UserError(f'the exported program differs from {type(model).__name__} by more than {TOLERANCE:g} '
                        f'(relative to the largest score), so nothing was written:\n{table(comparisons)}\n'
                        f'{shape_advice(input_shape)}'.rstrip())

"""The training loop: PaddleSeg's components, our order of events.

A step reads nothing back from the device; losses are summed there and read every `log_iters` steps. Everything
random is a function of the seed and the iteration, so a resumed training continues as if it had never stopped.
"""
from __future__ import annotations

import contextlib
import logging
import random
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from paddleseg_ext.checkpoints import training_state
from paddleseg_ext.engine.average import MovingAverage
from paddleseg_ext.engine.evaluate import evaluate
from paddleseg_ext.engine.losses import compute_losses
from paddleseg_ext.engine.options import TestOptions
from paddleseg_ext.engine.recording import Recorder
from paddleseg_ext.engine.sampling import SeededDataset, ShuffledBatches, batches
from paddleseg_ext.errors import UserError

__all__ = ['Interrupted', 'TrainOptions', 'train']

DTYPES = {'fp16': 'float16', 'bf16': 'bfloat16'}
log = logging.getLogger('paddleseg_ext')


class Interrupted(KeyboardInterrupt):
    """The training was asked to stop and has saved a checkpoint; the text names it."""


@dataclass(frozen=True)
class TrainOptions:
    """How to train what a YAML describes; names as the flags of `paddleseg train`.

    `batch_size` images a step on each device come from the YAML, as do the iterations. `resume_model` is what
    `checkpoints.training_state.find_checkpoint` takes. `seed` None draws one and notes it. `ema_decay` counts with
    `use_ema` only. `val_batch_size` images of equal size are validated at once.
    """
    save_dir: Path = Path('output')
    do_eval: bool = False
    use_vdl: bool = False
    use_ema: bool = False
    ema_decay: float = 0.999
    save_interval: int = 1000
    keep_checkpoint_max: int = 5
    log_iters: int = 10
    num_workers: int = 0
    val_batch_size: int = 1
    resume_model: str | None = None
    precision: str = 'fp32'
    amp_level: str = 'O1'
    seed: int | None = None

    def __post_init__(self):
        for name in ('save_interval', 'keep_checkpoint_max', 'log_iters', 'val_batch_size'):
            if getattr(self, name) < 1:
                raise UserError(f'{name} must be at least 1, but is {getattr(self, name)}.')
        if self.num_workers < 0:
            raise UserError(f'num_workers must be 0 or more, but is {self.num_workers}.')
        if self.precision not in ('fp32', *DTYPES):
            raise UserError(f'precision {self.precision!r} is unknown; choose fp32, fp16 or bf16.')


def train(builder, options: TrainOptions = TrainOptions()) -> training_state.Progress:
    """Train, evaluate and save as the options say; returns how far it came.

    Args:
        builder: PaddleSeg's SegBuilder of a checked configuration (`config.make_builder`).

    Raises:
        UserError: the configuration, the data or the checkpoint does not allow it, or the loss is no longer finite.
        Interrupted: SIGINT or SIGTERM arrived; a checkpoint of the last whole step was saved first.
    """
    trainer = _Trainer(builder, options)
    try:
        trainer.run()
    finally:
        trainer.recorder.close()
    return trainer.progress


class _Trainer:
    def __init__(self, builder, options: TrainOptions):
        self.builder, self.options = builder, options
        self.rank, self.ranks = _start_ranks()
        self.iterations = builder.config.iters
        checkpoint = self._find_checkpoint()
        self.progress = training_state.Progress(seed=self._seed())
        _seed_everything(self.progress.seed)
        self._build()
        if checkpoint is not None:
            self._restore(checkpoint)
        self.stopping = _StopRequest()
        self.recorder = Recorder(options.save_dir, start=self.progress.iteration, stop=self.iterations,
                                 batch_size=builder.config.batch_size * self.ranks, active=self.rank == 0,
                                 use_vdl=options.use_vdl)

    def _find_checkpoint(self) -> Path | None:
        if self.options.resume_model is not None:
            return training_state.find_checkpoint(self.options.resume_model, self.options.save_dir)
        present = training_state.find_checkpoint('auto', self.options.save_dir)
        if present is not None:
            raise UserError(f'{self.options.save_dir} already holds a training ({present.name}); continue it with '
                            '--resume_model auto, or choose another --save_dir.')
        return None

    def _seed(self) -> int:
        if self.options.seed is not None:
            return self.options.seed
        if self.ranks == 1:
            return random.SystemRandom().randrange(2**31)
        shared = paddle.to_tensor([random.SystemRandom().randrange(2**31)])
        paddle.distributed.broadcast(shared, src=0)
        return int(shared)

    def _build(self) -> None:
        builder = self.builder
        self.dataset = builder.train_dataset
        self.val_dataset = builder.val_dataset if self.options.do_eval else None
        if self.val_dataset is not None and len(self.val_dataset) == 0:
            raise UserError('--do_eval was given, but val_dataset has no samples.')
        self.losses = builder.loss
        self.model = builder.model
        self.optimizer = builder.optimizer
        self.average = None
        if self.options.use_ema:
            self.average = MovingAverage(self.model, decay=self.options.ema_decay)
        self.scaler = self._scaler()
        self._wrap()

    def _scaler(self):
        if self.options.precision == 'fp32':
            return None
        if paddle.get_device() == 'cpu':
            raise UserError(f'--precision {self.options.precision} changes nothing on the CPU, where Paddle has no '
                            'mixed precision; use fp32 there, or --device gpu.')
        if self.options.amp_level == 'O2':
            self.model, self.optimizer = paddle.amp.decorate(self.model, self.optimizer, level='O2',
                                                             dtype=DTYPES[self.options.precision],
                                                             save_dtype='float32')
        return paddle.amp.GradScaler(init_loss_scaling=1024.) if self.options.precision == 'fp16' else None

    def _wrap(self) -> None:
        """Set `network`, what a step calls: the model, traced or with gradients summed over ranks if asked for."""
        self.network = self.model
        if self.builder.config.to_static_training:
            self.network = paddle.jit.to_static(self.model)
        if self.ranks > 1:
            self.network = paddle.DataParallel(self.network)

    def _restore(self, checkpoint: Path) -> None:
        average = self.average.model if self.average else None
        self.progress = training_state.restore(checkpoint, self.model, self.optimizer, average=average,
                                               scaler=self.scaler)
        if self.options.seed is not None and self.options.seed != self.progress.seed:
            log.warning('--seed %d is ignored: the training to resume runs with seed %d.', self.options.seed,
                        self.progress.seed)
        if self.progress.iteration > self.iterations:
            raise UserError(f'{checkpoint} is at iteration {self.progress.iteration}, after the {self.iterations} '
                            'iterations asked for; raise --iters to train on.')
        log.info('resumed from %s at iteration %d', checkpoint, self.progress.iteration)

    def run(self) -> None:
        first = self.progress.iteration
        self._evaluate_if_due()
        order = ShuffledBatches(len(self.dataset), batch_size=self.builder.config.batch_size, start=first,
                                stop=self.iterations, seed=self.progress.seed, rank=self.rank, ranks=self.ranks)
        data = SeededDataset(self.dataset, self.progress.seed)
        self.window = _LossWindow(self.scaler is not None)
        with self.stopping:
            for batch in batches(data, order, num_workers=self.options.num_workers):
                self._step(batch)
                self._after_step()
        if self.progress.iteration == first:
            log.info('nothing to do: the training already stands at iteration %d', first)

    def _step(self, batch: dict) -> None:
        iteration = self.progress.iteration
        # NOTE: reseeding every step makes drop path and dropout a function of seed, iteration and rank.
        paddle.seed((self.progress.seed * 1_000_003 + iteration * self.ranks + self.rank) % 2**31)
        self.model.train()
        images = batch['img']
        if getattr(self.model, 'data_format', 'NCHW') == 'NHWC':
            images = images.transpose((0, 2, 3, 1))
        with self._mixed_precision():
            terms = compute_losses(self.model, self.network(images), batch, self.losses)
            loss = paddle.add_n(terms)
        self.window.add(loss, terms, iteration + 1)
        self._update(loss)
        self.progress.iteration = iteration + 1
        if self.average is not None:
            self.average.update(self.model, self.progress.iteration)

    def _mixed_precision(self):
        if self.options.precision == 'fp32':
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.options.amp_level, dtype=DTYPES[self.options.precision])

    def _update(self, loss: paddle.Tensor) -> None:
        if self.scaler is None:
            loss.backward()
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.clear_grad()
        schedule = self.builder.lr_scheduler
        if isinstance(schedule, paddle.optimizer.lr.ReduceOnPlateau):
            schedule.step(loss)
        else:
            schedule.step()

    def _after_step(self) -> None:
        iteration, options = self.progress.iteration, self.options
        self.recorder.step()
        last = iteration == self.iterations
        if iteration % options.log_iters == 0 or last:
            self.recorder.losses(iteration, self.window.read(), self.optimizer.get_lr())
        if iteration % options.save_interval == 0 or last:
            self.window.check()
            self._evaluate_if_due()
            self._save(options.save_dir / f'iter_{iteration}')
        elif self.stopping.asked:
            self.window.check()
            self._save(options.save_dir / f'iter_{iteration}')
        if self.stopping.asked and not last:
            raise Interrupted(f'stopped at iteration {iteration}; continue with --resume_model auto '
                              f'--save_dir {options.save_dir}')

    def _evaluate_if_due(self) -> None:
        iteration = self.progress.iteration
        due = iteration and (iteration % self.options.save_interval == 0 or iteration == self.iterations)
        if self.val_dataset is None or not due or self.progress.evaluated_iteration == iteration:
            return
        tested = self.average.model if self.average else self.model
        options = TestOptions.from_config(self.builder.config.test_config, precision=self.options.precision)
        with self.stopping.by_exception(self._save_unevaluated):
            result = evaluate(tested, self.val_dataset, options, batch_size=self.options.val_batch_size,
                              num_workers=self.options.num_workers, progress=self.rank == 0)
        self.progress.evaluated_iteration = iteration
        best = result.miou > self.progress.best_score
        if best:
            self.progress.best_score, self.progress.best_iteration = result.miou, iteration
            self._save(self.options.save_dir / 'best_model')
        self.recorder.scores(iteration, {'miou': result.miou, 'accuracy': result.accuracy, 'kappa': result.kappa,
                                         'mdice': result.mdice}, best=best)
        self.recorder.restart_clock()

    def _save_unevaluated(self) -> None:
        self._save(self.options.save_dir / f'iter_{self.progress.iteration}')

    def _save(self, folder: Path) -> None:
        if self.rank == 0:
            average = self.average.model if self.average else None
            training_state.save(folder, self.model, self.optimizer, self.progress, average=average,
                                scaler=self.scaler)
            training_state.tidy(self.options.save_dir, self.options.keep_checkpoint_max)


class _LossWindow:
    """Sums the losses since the last reading on the device, and stops the training when they are not finite.

    On the CPU every loss is looked at as it comes, before its gradient is computed; on a GPU, where that would stall
    the stream, at every reading and before every save. A loss scaler is allowed single bad steps, which it skips.
    """

    def __init__(self, scaled: bool):
        self.scaled = scaled
        self.at_once = paddle.get_device() == 'cpu'
        self._empty()

    def _empty(self) -> None:
        self.total, self.bad, self.steps, self.last = None, 0, 0, 0

    def add(self, loss: paddle.Tensor, terms: list[paddle.Tensor], iteration: int) -> None:
        values = paddle.stack([part.detach().astype('float32').reshape([]) for part in (loss, *terms)])
        finite = paddle.isfinite(values[0])
        self.bad = self.bad + (1 - finite.astype('int32'))
        self.total = values if self.total is None else self.total + values
        self.steps, self.last = self.steps + 1, iteration
        if self.at_once:
            self.check()

    def check(self) -> None:
        """Raise UserError if the losses are not finite."""
        bad = int(self.bad)
        if bad > (self.steps - 1 if self.scaled else 0):
            raise UserError(f'the loss is not finite (NaN or infinite) at iteration {self.last}; nothing after the last '
                            'checkpoint was saved. Lower the learning rate, lengthen the warm-up, clip gradients '
                            '(optimizer.grad_clip_cfg) or check the data with `paddleseg data check`.')

    def read(self) -> list[float]:
        """Mean losses since the last reading: the sum, then each term. Raises UserError if they are not finite."""
        self.check()
        means = (self.total / self.steps).tolist()
        self._empty()
        return means


class _StopRequest:
    """Turns SIGINT and SIGTERM into a wish that is granted between two steps; a second signal stops at once."""

    def __init__(self):
        self.asked = False
        self.on_signal = None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._receive)
                             for number in (signal.SIGINT, signal.SIGTERM)}
        else:
            self.previous = {}
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _receive(self, number, _frame):
        if self.asked or self.on_signal:
            raise KeyboardInterrupt
        self.asked = True
        log.warning('%s: finishing this step and saving a checkpoint; once more to stop at once.',
                    signal.Signals(number).name)

    @contextlib.contextmanager
    def by_exception(self, save):
        """Within the block a signal interrupts at once, after `save`, because the block is long and changes nothing."""
        self.on_signal = save
        try:
            yield
        except KeyboardInterrupt as error:
            save()
            raise Interrupted('stopped during validation; continue with --resume_model auto') from error
        finally:
            self.on_signal = None


def _start_ranks() -> tuple[int, int]:
    ranks = paddle.distributed.get_world_size()
    if ranks > 1:
        paddle.distributed.init_parallel_env()
    return paddle.distributed.get_rank(), ranks


def _seed_everything(seed: int) -> None:
    paddle.seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)

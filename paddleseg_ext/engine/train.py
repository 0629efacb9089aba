"""The training loop: PaddleSeg's components, our order of events.

A step reads nothing back from the device; losses are summed there and read every `log_iters` steps. Everything
random is a function of the seed and the iteration, so a resumed training continues as if it had never stopped.
"""
from __future__ import annotations

import contextlib
import logging
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from paddleseg_ext.checkpoints import training_state
from paddleseg_ext.config import drop_pretrained
from paddleseg_ext.engine.average import MovingAverage
from paddleseg_ext.engine.evaluate import evaluate
from paddleseg_ext.engine.interruption import Interrupted, StopRequest
from paddleseg_ext.engine.loss_window import LossWindow, require_finite_weights
from paddleseg_ext.engine.losses import compute_losses
from paddleseg_ext.engine.options import TestOptions
from paddleseg_ext.engine.recording import Recorder
from paddleseg_ext.engine.sampling import SeededDataset, ShuffledBatches, batches
from paddleseg_ext.errors import UserError
from paddleseg_ext.layers.frozen_norm import FrozenBatchNorm2D

__all__ = ['Interrupted', 'TrainOptions', 'train']

DTYPES = {'fp16': 'float16', 'bf16': 'bfloat16'}
LEVELS = ('O1', 'O2')
log = logging.getLogger('paddleseg_ext')


@dataclass(frozen=True)
class TrainOptions:
    """How to train what a YAML describes; names as the flags of `paddleseg train`.

    `batch_size` images a step on each device come from the YAML, as do the iterations. `resume_model` is what
    `checkpoints.training_state.find_checkpoint` takes. `seed` None takes the YAML's, or draws one. `ema_decay` counts
    with `use_ema` only. `val_batch_size` images of equal size are validated at once.
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
        object.__setattr__(self, 'save_dir', Path(self.save_dir))
        for name in ('save_interval', 'keep_checkpoint_max', 'log_iters', 'val_batch_size'):
            if getattr(self, name) < 1:
                raise UserError(f'{name} must be at least 1, but is {getattr(self, name)}.')
        for name in ('num_workers', 'seed'):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f'{name} must be 0 or more, but is {getattr(self, name)}.')
        if not 0. <= self.ema_decay < 1.:
            raise UserError(f'ema_decay must lie in [0, 1), but is {self.ema_decay}.')
        if self.precision not in ('fp32', *DTYPES):
            raise UserError(f'precision {self.precision!r} is unknown; choose fp32, fp16 or bf16.')
        if self.amp_level not in LEVELS:
            raise UserError(f'amp_level {self.amp_level!r} is unknown; choose one of {", ".join(LEVELS)}.')
        if self.save_dir.exists() and not self.save_dir.is_dir():
            raise UserError(f'save_dir {self.save_dir} is a file; choose a folder.')


def train(builder, options: TrainOptions) -> training_state.Progress:
    """Train, evaluate and save as the options say; returns how far it came.

    Args:
        builder: PaddleSeg's SegBuilder of a checked configuration (`config.make_builder`).

    Raises:
        UserError: the configuration, the data or the checkpoint does not allow it, or the loss is no longer finite.
        Interrupted: SIGINT or SIGTERM arrived; a checkpoint of the last whole step was saved first.
    """
    trainer = _Trainer(builder, options)
    with trainer.stopping:
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
        if checkpoint is not None:  # its weights replace all others, which need not be at hand any more
            drop_pretrained(builder.config.dic['model'])
        self._build()
        if checkpoint is not None:
            self._restore(checkpoint)
        self.order = ShuffledBatches(len(self.dataset), batch_size=builder.config.batch_size,
                                     start=self.progress.iteration, stop=self.iterations, seed=self.progress.seed,
                                     rank=self.rank, ranks=self.ranks)
        self.stopping = StopRequest()
        self.window = LossWindow(scaled=self.scaler is not None)
        if self.rank == 0:
            training_state.claim(options.save_dir, checkpoint, self.progress)
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
        seed = self.options.seed if self.options.seed is not None else self.builder.config.dic.get('seed')
        if seed is not None:
            return seed
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
        if self.ranks > 1 and paddle.get_device().startswith('gpu'):
            self.model = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
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
            # NOTE: Paddle keeps its own batch norms in float32, and casts the statistics of any other layer.
            self.model, self.optimizer = paddle.amp.decorate(self.model, self.optimizer, level='O2',
                                                             dtype=DTYPES[self.options.precision],
                                                             save_dtype='float32',
                                                             excluded_layers=[FrozenBatchNorm2D])
        return paddle.amp.GradScaler(init_loss_scaling=1024.) if self.options.precision == 'fp16' else None

    def _wrap(self) -> None:
        """Set `network`, what a step calls: the model, traced or with gradients summed over ranks if asked for."""
        self.network = self.model
        if self.builder.config.to_static_training:
            # NOTE: wrapped, because to_static replaces the forward of what it gets, and validation needs the model's.
            self.network = paddle.jit.to_static(paddle.nn.Sequential(self.model), full_graph=True)
        if self.ranks > 1:
            self.network = paddle.DataParallel(self.network)

    def _restore(self, checkpoint: Path) -> None:
        fresh_seed, average = self.progress.seed, self.average.model if self.average else None
        self.progress = training_state.restore(checkpoint, self.model, self.optimizer, average=average,
                                               scaler=self.scaler)
        if self.progress.seed is None:
            self.progress.seed = fresh_seed
        if self.options.seed is not None and self.options.seed != self.progress.seed:
            log.warning('--seed %d is ignored: the training to resume runs with seed %d.', self.options.seed,
                        self.progress.seed)
        if self.progress.iteration > self.iterations:
            raise UserError(f'{checkpoint} is at iteration {self.progress.iteration}, after the {self.iterations} '
                            'iterations asked for; raise --iters to train on.')
        log.info('resumed from %s at iteration %d', checkpoint, self.progress.iteration)

    def run(self) -> None:
        first = self.progress.iteration
        data = SeededDataset(self.dataset, self.progress.seed)
        if first:
            self._catch_up()
        with contextlib.closing(batches(data, self.order, num_workers=self.options.num_workers)) as stream:
            for batch in stream:
                self._step(batch)
                self._after_step()
        if self.progress.iteration == first:
            log.info('nothing to do: the training already stands at iteration %d', first)

    def _catch_up(self) -> None:
        """Do the validation that an interruption prevented."""
        if self._must_evaluate():
            self._evaluate()
            self._save(f'iter_{self.progress.iteration}')

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
        self.learning_rate = self.optimizer.get_lr()
        schedule = self.builder.lr_scheduler
        if isinstance(schedule, paddle.optimizer.lr.ReduceOnPlateau):
            schedule.step(self._mean_over_ranks(loss))
        else:
            schedule.step()

    def _mean_over_ranks(self, loss: paddle.Tensor) -> float:
        loss = loss.detach().astype('float32')
        if self.ranks > 1:
            paddle.distributed.all_reduce(loss)
        return float(loss) / self.ranks

    def _after_step(self) -> None:
        iteration, options = self.progress.iteration, self.options
        self.recorder.step()
        last = iteration == self.iterations
        reads = iteration % options.log_iters == 0 or last
        if reads:
            self.recorder.losses(iteration, self.window.read(), self.learning_rate)
        stop = self._stop_asked(reads)
        if stop or last or iteration % options.save_interval == 0:
            self.window.check()
            require_finite_weights(self.model, iteration)
            if not stop and self._must_evaluate():
                self._evaluate()
            self._save(f'iter_{iteration}')
            self.recorder.restart_clock()
        if stop:
            raise Interrupted(self._farewell())

    def _stop_asked(self, reads: bool) -> bool:
        """Whether to stop after this step; all ranks get the same answer, where needed only in steps that read."""
        if self.ranks == 1:
            return self.stopping.asked
        if not reads and paddle.get_device() != 'cpu':
            return False
        asked = paddle.to_tensor([int(self.stopping.asked)])
        paddle.distributed.all_reduce(asked, op=paddle.distributed.ReduceOp.MAX)
        return bool(asked)

    def _farewell(self) -> str:
        return (f'stopped at iteration {self.progress.iteration}; continue with --resume_model auto '
                f'--save_dir {self.options.save_dir}')

    def _must_evaluate(self) -> bool:
        iteration = self.progress.iteration
        due = iteration % self.options.save_interval == 0 or iteration == self.iterations
        return self.val_dataset is not None and due and self.progress.evaluated_iteration != iteration

    def _evaluate(self) -> None:
        progress, tested = self.progress, self.average.model if self.average else self.model
        options = TestOptions.from_config(self.builder.config.test_config, precision=self.options.precision)
        try:
            with self.stopping.breaking():
                result = evaluate(tested, self.val_dataset, options, batch_size=self.options.val_batch_size,
                                  num_workers=self.options.num_workers, progress=sys.stderr.isatty())
        except KeyboardInterrupt as error:
            self._save(f'iter_{progress.iteration}')
            raise Interrupted(self._farewell()) from error
        progress.evaluated_iteration = progress.iteration
        best = result.miou > progress.best_score
        if best:
            progress.best_score, progress.best_iteration = result.miou, progress.iteration
            self._save(training_state.BEST)
        scores = {name: getattr(result, name) for name in ('miou', 'accuracy', 'kappa', 'mdice')}
        self.recorder.scores(progress.iteration, scores, best=best)

    def _save(self, name: str) -> None:
        if self.rank == 0:
            training_state.save(self.options.save_dir / name, self.model, self.optimizer, self.progress,
                                average=self.average.model if self.average else None, scaler=self.scaler)
            training_state.tidy(self.options.save_dir, self.options.keep_checkpoint_max)


def _start_ranks() -> tuple[int, int]:
    ranks = paddle.distributed.get_world_size()
    if ranks > 1:
        paddle.distributed.init_parallel_env()
    return paddle.distributed.get_rank(), ranks


def _seed_everything(seed: int) -> None:
    paddle.seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)

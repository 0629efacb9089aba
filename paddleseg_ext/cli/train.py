"""`paddleseg train`: train what a YAML describes."""
from __future__ import annotations

import argparse
from pathlib import Path

from paddleseg_ext.cli.flags import add_config_flags, add_device_flag, is_first_rank, open_config, set_device

SUMMARY = 'train the model of a configuration'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser)
    add_device_flag(parser)
    parser.add_argument('--save_dir', type=Path, default=Path('output'), help='folder for checkpoints and curves')
    parser.add_argument('--iters', type=int, help='training steps, in place of the configuration\'s')
    parser.add_argument('--batch_size', type=int, help='images a step on each device, likewise')
    parser.add_argument('--learning_rate', type=float, help='initial learning rate, likewise')
    parser.add_argument('--resume_model', metavar='FOLDER',
                        help='continue: an iter_N folder, best_model, a run folder, or auto for the newest in save_dir')
    parser.add_argument('--seed', type=int, help='seed of initial weights, order and augmentation; drawn if not given')
    parser.add_argument('--num_workers', type=int, default=0, help='processes that read images; 0 reads in this one')
    parser.add_argument('--precision', choices=('fp32', 'fp16', 'bf16'), default='fp32',
                        help='fp16 and bf16: mixed precision on a GPU; refused on the CPU')
    parser.add_argument('--amp_level', choices=('O1', 'O2'), default='O1', help='O2 also keeps the weights in half')
    parser.add_argument('--use_ema', action='store_true', help='average the weights, and evaluate and save the average')
    parser.add_argument('--ema_decay', type=float, default=0.999, help='share of the average that a step keeps')
    parser.add_argument('--do_eval', action='store_true', help='evaluate at every save and keep best_model')
    parser.add_argument('--val_batch_size', type=int, default=1, help='images evaluated at once where sizes allow')
    parser.add_argument('--save_interval', type=int, default=1000, help='steps between checkpoints')
    parser.add_argument('--keep_checkpoint_max', type=int, default=5, help='newest checkpoints to keep')
    parser.add_argument('--log_iters', type=int, default=10, help='steps between log lines')
    parser.add_argument('--use_vdl', action='store_true', help='write VisualDL logs to save_dir')


def run(args: argparse.Namespace) -> int:
    set_device(args.device)
    from dataclasses import fields

    from paddleseg_ext.engine.train import TrainOptions, train
    builder = open_config(args, iters=args.iters, batch_size=args.batch_size, learning_rate=args.learning_rate)
    options = TrainOptions(**{field.name: getattr(args, field.name) for field in fields(TrainOptions)})
    progress = train(builder, options)
    if not is_first_rank():
        return 0
    print(f'Trained to iteration {progress.iteration}; checkpoints and curves: {args.save_dir}')
    if progress.best_score >= 0:
        print(f'Best validation mIoU {progress.best_score:.4f} at iteration {progress.best_iteration}: '
              f'{args.save_dir / "best_model"}')
    return 0

"""`paddleseg val`: the figures of trained weights on the validation set."""
from __future__ import annotations

import argparse

from paddleseg_ext.cli.flags import add_config_flags, add_device_flag
from paddleseg_ext.cli.testing_flags import add_testing_flags, open_testing_options

SUMMARY = 'evaluate weights on the validation set: mIoU, accuracy, kappa, dice, each class, confusion matrix'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags as PaddleSeg's tools/val.py, and `--batch_size`, `--save_dir`, `--window_batch`."""
    add_config_flags(parser)
    parser.add_argument('--model_path', required=True, help='a .pdparams file, a checkpoint folder or a run folder')
    parser.add_argument('--batch_size', type=int, default=1,
                        help='images put through the model at once, where neighbours have equal sizes')
    parser.add_argument('--num_workers', type=int, default=0,
                        help='processes that read images ahead; 0 reads in this one')
    parser.add_argument('--save_dir', help='write metrics.json, confusion_matrix.json and confusion_matrix.png there')
    parser.add_argument('--auc_roc', action='store_true', help='also the area under the ROC curve (slower)')
    add_device_flag(parser)
    add_testing_flags(parser, augment_flag='--aug_eval')


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; 0.

    Raises:
        UserError: files that cannot be read, weights that do not fit, flags that do not go together.
    """
    from paddleseg_ext.checkpoints.weights import load_weights
    from paddleseg_ext.cli.flags import is_first_rank, open_config, set_device
    from paddleseg_ext.data.classes import class_names
    from paddleseg_ext.engine.evaluate import evaluate
    from paddleseg_ext.engine.evaluation_report import class_table, headline, write_report
    from paddleseg_ext.metrics import ScoreHistogram

    _check_numbers(args)
    device = set_device(args.device)
    builder = open_config(args, paths=False)  # training data need not be there
    test_config = builder.config.dic.get('test_config') or {}
    options = open_testing_options(args, test_config, augment=args.aug_eval)
    model, dataset = builder.model, builder.val_dataset
    load_weights(model, args.model_path)
    names = class_names(builder.config.dic, dataset.num_classes)
    wants_area = args.auc_roc or test_config.get('auc_roc')
    scores = ScoreHistogram(dataset.num_classes, ignore_index=dataset.ignore_index) if wants_area else None
    matrix = evaluate(model, dataset, options, batch_size=args.batch_size, num_workers=args.num_workers, scores=scores)
    if not is_first_rank():
        return 0
    print(class_table(matrix, names, scores))
    print(f'{len(dataset)} images  {headline(matrix, scores)}')
    if args.save_dir:
        settings = {'config': str(args.config), 'opts': list(args.opts or []), 'model_path': str(args.model_path),
                    'device': device, 'batch_size': args.batch_size, 'test': options.as_dict()}
        write_report(args.save_dir, matrix, names, settings=settings, images=len(dataset), scores=scores)
        print(f'Figures and the confusion matrix are in {args.save_dir}')
    return 0


def _check_numbers(args: argparse.Namespace) -> None:
    from paddleseg_ext.errors import UserError
    for flag, least in (('batch_size', 1), ('num_workers', 0)):
        if getattr(args, flag) < least:
            raise UserError(f'--{flag} is {getattr(args, flag)}; it must be at least {least}.')

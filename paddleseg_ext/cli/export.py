"""`paddleseg export`: from trained weights to a folder that Paddle Inference runs, checked against the model."""
from __future__ import annotations

import argparse
import os

from paddleseg_ext.cli.flags import DEVICES, add_config_flags

SUMMARY = 'write the trained model as a program for Paddle Inference, and check that it computes the same'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags as PaddleSeg's tools/export.py, and `--without_verify`."""
    add_config_flags(parser)
    parser.add_argument('--model_path', help='a .pdparams file, a checkpoint folder or a run folder; without it the '
                        'weights are those the model starts with, which is for trying out only')
    parser.add_argument('--save_dir', default='output/inference_model', help='the export folder; an older export in it '
                        'is replaced')
    parser.add_argument('--output_op', choices=('argmax', 'softmax', 'none'), default='argmax',
                        help='what the program gives: labels, probabilities or logits')
    parser.add_argument('--input_shape', nargs='+', type=int, metavar='SIDE',
                        help='batch, channels, height and width, -1 where any value goes, as in 1 3 512 1024')
    parser.add_argument('--without_verify', action='store_true',
                        help='do not run the exported program against the model at several sizes and batches')
    parser.add_argument('--device', choices=DEVICES, default='cpu',
                        help='where the model is traced; what is written runs anywhere')


def run(args: argparse.Namespace) -> int:
    """Export and print what was written; 0.

    Raises:
        UserError: weights that do not fit, a model that cannot be traced, a program that computes something else.
    """
    if args.device != 'cpu':
        # NOTE: PaddleSeg reads this when layers are built: plain batch norm in place of the synchronised one, which is
        # the same in inference. On the CPU it does so by itself.
        os.environ.setdefault('PADDLESEG_EXPORT_STAGE', 'True')
    from paddleseg_ext.checkpoints.weights import load_weights
    from paddleseg_ext.cli.flags import open_config, set_device
    from paddleseg_ext.export.paddle_export import export_model

    set_device(args.device)
    builder = open_config(args, paths=False)  # the data set need not be there
    model = builder.model
    if args.model_path:
        load_weights(model, args.model_path)
    else:
        print('No --model_path: exporting the weights the model starts with.')
    report = export_model(model, args.save_dir, tree=builder.config.dic, output_op=args.output_op,
                          input_shape=args.input_shape, verification=not args.without_verify)
    print(report.text())
    print(f'\nNext: paddleseg infer --config {report.folder / "deploy.yaml"} --image_path IMAGES --save_dir RESULTS')
    return 0

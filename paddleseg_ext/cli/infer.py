"""`paddleseg infer`: segment images with an exported program."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

SUMMARY = 'segment images with an exported program, without the model\'s source; prints latency figures'

_BENCHMARK_WARMUP = 5
_BENCHMARK_REPEATS = 10


def _boolean(text: str) -> bool:
    if text.lower() not in ('true', 'false'):
        raise argparse.ArgumentTypeError(f'{text!r} is neither True nor False')
    return text.lower() == 'true'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags as PaddleSeg's deploy/python/infer.py, and `--evaluate`, `--warmup`, bf16."""
    parser.add_argument('--config', required=True, metavar='DEPLOY_YAML',
                        help='the deploy.yaml that `paddleseg export` wrote, or its folder')
    parser.add_argument('--image_path', required=True,
                        help='an image, a folder (with its sub-folders), or a list file of `image [label]` lines')
    parser.add_argument('--save_dir', default='output/infer', help='where results go')
    parser.add_argument('--batch_size', type=int, default=1, help='images of equal size that run at once')
    parser.add_argument('--device', default='cpu', help='cpu, gpu or gpu:NUMBER')
    parser.add_argument('--cpu_threads', type=int, help='threads on the CPU; default: the cores this process may use')
    switch = {'type': _boolean, 'nargs': '?', 'const': True, 'metavar': 'True|False'}
    parser.add_argument('--enable_mkldnn', **switch, help='oneDNN on the CPU; default: on where it computes rightly')
    parser.add_argument('--precision', choices=('fp32', 'fp16', 'bf16'), default='fp32', help='numbers to compute with')
    parser.add_argument('--use_trt', **switch, default=False, help='TensorRT, on a GPU whose Paddle has it')
    parser.add_argument('--min_subgraph_size', type=int, default=3, help='smallest group of operators for TensorRT')
    parser.add_argument('--enable_auto_tune', **switch, default=False,
                        help='note the shapes of this run for TensorRT in --auto_tuned_shape_file')
    parser.add_argument('--auto_tuned_shape_file', type=Path, help='shapes of an earlier run with --enable_auto_tune')
    parser.add_argument('--warmup', type=int, default=0, help='untimed runs for each new batch shape')
    parser.add_argument('--benchmark', **switch, default=False,
                        help='time only: warm up, run every batch 10 times, write no pictures')
    parser.add_argument('--evaluate', action='store_true',
                        help='compare with the labels of the list file: prints the figures, writes metrics.json')


def run(args: argparse.Namespace) -> int:
    """Segment all images; 0, or 1 when some could not be done (all others are).

    Raises:
        UserError: no images, a damaged export folder, or options that this machine cannot honour.
    """
    from paddleseg_ext import compat
    from paddleseg_ext.data.image_io import list_images
    from paddleseg_ext.errors import UserError
    from paddleseg_ext.inference.deploy import Deployment
    from paddleseg_ext.inference.folder import segment_folder
    from paddleseg_ext.inference.paddle_runner import open_runner
    from paddleseg_ext.inference.segmenter import Segmenter
    from paddleseg_ext.metrics import ConfusionMatrix

    if args.warmup < 0:
        raise UserError(f'--warmup {args.warmup}: 0 or more runs.')
    compat.apply()  # mends PaddleSeg's transforms
    deployment = Deployment.read(args.config)
    items = list_images(args.image_path, leave_out=args.save_dir)
    if args.evaluate and not deployment.num_classes:
        raise UserError(f'--evaluate: {args.config} does not say num_classes. Export with `paddleseg export`.')
    runner = open_runner(deployment, _options(args))
    print(f'{runner.description}; {len(items)} images, output_op {deployment.output_op}')
    segmenter = Segmenter(deployment, runner, batch_size=args.batch_size,
                          warmup=max(args.warmup, _BENCHMARK_WARMUP) if args.benchmark else args.warmup,
                          repeats=_BENCHMARK_REPEATS if args.benchmark else 1)
    matrix = None
    if args.evaluate:
        matrix = ConfusionMatrix(deployment.num_classes, ignore_index=deployment.ignore_index)
    names, colors = _classes(deployment)
    report = segment_folder(segmenter, items, None if args.benchmark else args.save_dir, names=names, colors=colors,
                            matrix=matrix)
    runner.close()
    _print_report(args, report, segmenter, total=len(items))
    if matrix is not None:
        _report_metrics(args, matrix, names, images=len(report.done), description=runner.description)
    return 1 if report.failures else 0


def _options(args: argparse.Namespace):
    from paddleseg_ext.inference.paddle_runner import PaddleOptions

    return PaddleOptions(device=args.device, cpu_threads=args.cpu_threads, onednn=args.enable_mkldnn,
                         precision=args.precision, use_trt=args.use_trt, min_subgraph_size=args.min_subgraph_size,
                         trt_shape_file=args.auto_tuned_shape_file, collect_shapes=args.enable_auto_tune)


def _classes(deployment) -> tuple[list, list]:
    """Names and colours by class; made up where the export folder is PaddleSeg's own and has none."""
    from paddleseg_ext.data.palette import voc_palette

    count = deployment.num_classes or 256
    names = deployment.class_names or [f'class_{number}' for number in range(count)]
    return names, deployment.colors or voc_palette(count)


def _print_report(args: argparse.Namespace, report, segmenter, *, total: int) -> None:
    for path, reason in report.failures.items():
        print(f'not done: {path}: {reason}', file=sys.stderr)
    where = '' if args.benchmark else (f'; ids, palette masks and overlays are in {args.save_dir}/'
                                       '{label_ids,pseudo_color_prediction,added_prediction}')
    print(f'{len(report.done)} of {total} images done{where}')
    table = segmenter.stopwatch.table()
    if table:
        print(f'\nlatency, batch {segmenter.batch_size} (pre per image, run and post per batch):\n{table}')


def _report_metrics(args: argparse.Namespace, matrix, names: list, *, images: int, description: str) -> None:
    from paddleseg_ext.engine.evaluation_report import class_table, headline, write_report

    print(class_table(matrix, names))
    print(f'{images} images  {headline(matrix)}')
    settings = {'config': str(args.config), 'image_path': str(args.image_path), 'runner': description}
    write_report(args.save_dir, matrix, names, settings=settings, images=images)
    print(f'Figures and the confusion matrix are in {args.save_dir}')

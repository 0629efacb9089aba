"""`paddleseg data`: writes the synthetic scenes, and checks data sets."""
from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

SUMMARY = 'write the synthetic street scenes (synth), or check the data of a configuration (check)'

SHOWN_PER_KIND = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the two actions with their flags."""
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)
    synth = actions.add_parser('synth', help='write a data set of synthetic street scenes with exact labels',
                               formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    synth.add_argument('--save_dir', default='data/scenes', help='folder to write')
    synth.add_argument('--train', type=int, default=200, help='number of training pictures')
    synth.add_argument('--val', type=int, default=50, help='number of validation pictures')
    synth.add_argument('--width', type=int, default=192, help='width in pixels')
    synth.add_argument('--height', type=int, default=128, help='height in pixels')
    synth.add_argument('--seed', type=int, default=0, help='another seed draws other scenes')
    check = actions.add_parser('check', help='report missing and unreadable files, sizes, label ids and class shares')
    from paddleseg_ext.cli.flags import add_config_flags
    add_config_flags(check)
    check.add_argument('--limit', type=int, help='look at this many samples of each set, spread over its list')
    check.add_argument('--json', metavar='FILE', help='also write the whole report as JSON')


def run(args: argparse.Namespace) -> int:
    """Runs the action; returns 0, or 1 where the check found problems."""
    return _synth(args) if args.action == 'synth' else _check(args)


def _synth(args: argparse.Namespace) -> int:
    from paddleseg_ext.data.synth import write_scenes
    folder = write_scenes(args.save_dir, train=args.train, val=args.val, width=args.width, height=args.height,
                          seed=args.seed, progress=True)
    print(f'{args.train} training and {args.val} validation scenes of {args.width}x{args.height} are in {folder}')
    return 0


def _check(args: argparse.Namespace) -> int:
    from paddleseg_ext.data.classes import class_names
    from paddleseg_ext.data.inspect import find_duplicates
    builder = _open_builder(args)
    reports, findings = {}, []
    for name in ('train', 'val'):
        report, error = _inspect(builder, name, args.limit)
        findings += [(name, finding) for finding in (report.findings if report else [error])]
        if report:
            reports[name] = report
    if len(reports) == 2:
        findings += [('val', finding) for finding in find_duplicates(reports['train'], reports['val'])]
    names = []
    if reports:
        names = class_names(builder.config.dic, next(iter(reports.values())).num_classes)
        print(_table(reports, names))
    print(_findings_text(findings))
    if args.json:
        _write_json(args.json, reports, names, findings)
    return 1 if findings else 0


def _open_builder(args: argparse.Namespace):
    from paddleseg_ext.config import load_config, make_builder, require_valid
    config = load_config(args.config, opts=args.opts or ())
    # NOTE: paths are left to the check itself, which reports them together with everything else.
    require_valid(config, paths=False)
    return make_builder(config)


def _inspect(builder, name: str, limit):
    """Returns (report, None), or (None, finding) for a data set that cannot even be opened."""
    from paddleseg_ext.data.inspect import Finding, inspect_dataset
    section = getattr(builder.config, f'{name}_dataset_cfg')
    if not section:
        return None, Finding('no data set', f'{name}_dataset', 'the configuration has no such section')
    root = section.get('dataset_root')
    if root is not None and not Path(root).is_dir() and _may_download(section['type']):
        return None, Finding('missing folder', str(root), f'dataset_root of {name}_dataset')
    try:
        dataset = builder.build_component(section)
    except (RuntimeError, OSError, ValueError) as error:
        return None, Finding('cannot be opened', f'{name}_dataset', str(error))
    return inspect_dataset(dataset, name=name, limit=limit), None


def _may_download(kind: str) -> bool:
    """Whether a data set class might fetch gigabytes when its folder is missing, as some of PaddleSeg's do."""
    from paddleseg_ext.data.pairs import PairsDataset
    from paddleseg_ext.registry import components
    return not issubclass(components('dataset')[kind], PairsDataset)


def _table(reports: dict, names: list) -> str:
    from paddleseg_ext.data.inspect import class_weights
    first = next(iter(reports.values()))
    weights = class_weights(first.shares)
    width = max(len(name) for name in [*names, 'class'])
    lines = []
    for name, report in reports.items():
        sizes = ', '.join(f'{across}x{down} ({count})' for (across, down), count in report.sizes.most_common(4))
        more = f' and {len(report.sizes) - 4} other sizes' if len(report.sizes) > 4 else ''
        labelled = report.pixels.sum() + report.ignored
        lines.append(f'{name}: {report.samples} samples, {report.inspected} looked at; {sizes or "no sizes"}{more}; '
                     f'{100 * report.ignored / max(labelled, 1):.1f} % of the label pixels ignored')
    head = f'{"id":>4}  {"class":<{width}}' + ''.join(f'  {f"{name} %":>8}  {"images":>6}' for name in reports)
    lines += ['', head + f'  {"weight":>7}', '-' * len(head + '  weight ')]
    for class_id, class_name in enumerate(names):
        row = f'{class_id:>4}  {class_name:<{width}}'
        for report in reports.values():
            row += f'  {100 * report.shares[class_id]:>8.3f}  {report.images_with[class_id]:>6}'
        lines.append(row + f'  {weights[class_id]:>7.3f}')
    rounded = ', '.join(f'{weight:.3f}' for weight in weights)
    lines += ['', f'class weights 1/ln(1.1 + share) from {first.name}: [{rounded}]']
    absent = [names[class_id] for class_id in range(len(names)) if not first.pixels[class_id]]
    if absent:
        lines.append(f'note: {first.name} has no pixel of {", ".join(absent)}')
    return '\n'.join(lines)


def _findings_text(findings: list) -> str:
    if not findings:
        return '\nno problems found'
    kinds = Counter(finding.kind for _, finding in findings)
    lines = ['', f'{len(findings)} problem{"s" * (len(findings) > 1)}:']
    for kind, count in kinds.items():
        chosen = [(name, finding) for name, finding in findings if finding.kind == kind]
        lines.append(f'{kind} ({count}):')
        for name, finding in chosen[:SHOWN_PER_KIND]:
            lines.append(f'  [{name}] {finding.file}' + (f': {finding.message}' if finding.message else ''))
        if count > SHOWN_PER_KIND:
            lines.append(f'  … and {count - SHOWN_PER_KIND} more; --json FILE writes them all')
    return '\n'.join(lines)


def _write_json(path: str, reports: dict, names: list, findings: list) -> None:
    from paddleseg_ext.files import atomic_write_text
    content = {'class_names': names, 'datasets': {name: report.to_dict() for name, report in reports.items()},
               'problems': [{'dataset': name, **vars(finding)} for name, finding in findings]}
    atomic_write_text(Path(path), json.dumps(content, indent=2, ensure_ascii=False) + '\n')

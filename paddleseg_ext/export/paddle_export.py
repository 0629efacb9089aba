"""Write the folder that Paddle Inference runs: the program, its weights, and `deploy.yaml`.

The folder appears whole or not at all: everything is written and checked in a temporary folder beside it.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import paddle

from paddleseg_ext.errors import UserError
from paddleseg_ext.export.deploy_yaml import deploy_section, in_channels_of, write_deploy_yaml
from paddleseg_ext.export.program import INPUT_NAME, full_input_shape, save_program
from paddleseg_ext.export.verify import Comparison, Verification, table, verify
from paddleseg_ext.files import atomic_folder
from paddleseg_ext.inference.deploy import OUTPUT_OPS

__all__ = ['ExportReport', 'export_model']

# What an export folder may hold: anything else in save_dir is somebody's and must not be replaced.
_OWN_FILES = {'model.json', 'model.pdmodel', 'model.pdiparams', 'model.pdiparams.info', 'model.onnx', 'deploy.yaml'}


@dataclass
class ExportReport:
    """What was written, and how well it agrees with the model.

    Attributes:
        folder: the export folder.
        files: file name → bytes.
        output_op, input_shape: as in `deploy.yaml`.
        comparisons: one per checked batch and size; empty when verification was switched off.
        notes: sentences the user should read.
    """

    folder: Path
    files: dict
    output_op: str
    input_shape: list
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list = field(default_factory=list)

    def text(self) -> str:
        """The report for people: files, differences, notes."""
        lines = [f'{self.folder / name}  {size / 1e6:.2f} MB' for name, size in sorted(self.files.items())]
        lines.append(f'input {self.input_shape}, output_op {self.output_op}')
        if self.comparisons:
            lines += ['', 'exported program against the model:', table(self.comparisons)]
        return '\n'.join(lines + [f'note: {note}' for note in self.notes])


def export_model(model: paddle.nn.Layer, save_dir: str | Path, *, tree: dict, output_op: str = 'argmax',
                 input_shape: Sequence | None = None, verification: bool = True) -> ExportReport:
    """Write `save_dir/{model.json|model.pdmodel, model.pdiparams, deploy.yaml}` and check that it computes the same.

    Args:
        model: a segmentor of ours or of PaddleSeg with its weights loaded; it is left as it was.
        save_dir: the export folder; an earlier export there is replaced.
        tree: the training YAML as a merged dictionary: transforms, class names and test options come from it.
        output_op: `argmax` (labels), `softmax` or `none` (logits).
        input_shape: `[N, C, H, W]`, None or -1 for any; by default any batch and size.
        verification: run the exported program against the model, and write nothing when they differ.

    Raises:
        UserError: wrong arguments, a model that cannot be traced, or a program that differs from its model.
    """
    save_dir = Path(save_dir)
    if output_op not in OUTPUT_OPS:
        raise UserError(f'--output_op {output_op}: expected one of {", ".join(OUTPUT_OPS)}.')
    _require_own_folder(save_dir)
    shape = full_input_shape(input_shape, in_channels_of(tree))
    section = deploy_section(tree, model, input_shape=shape, output_op=output_op, input_name=INPUT_NAME)
    with atomic_folder(save_dir) as folder:
        program = save_program(model, folder / 'model', output_op=output_op, input_shape=shape)
        checked = verify(model, program, output_op=output_op, input_shape=shape) if verification else None
        if checked and checked.onednn is not None:
            section['onednn'] = checked.onednn
        write_deploy_yaml(folder, section, program=program.name, params='model.pdiparams')
        files = {path.name: path.stat().st_size for path in folder.iterdir()}
    return ExportReport(save_dir, files, output_op, shape, checked.comparisons if checked else [],
                        _notes(tree, output_op, checked))


def _require_own_folder(save_dir: Path) -> None:
    if save_dir.exists() and not save_dir.is_dir():
        raise UserError(f'--save_dir {save_dir}: is a file. Name a folder.')
    foreign = sorted({path.name for path in save_dir.iterdir()} - _OWN_FILES) if save_dir.is_dir() else []
    if foreign:
        raise UserError(f'--save_dir {save_dir}: holds other files ({", ".join(foreign[:3])}'
                        f'{" …" if len(foreign) > 3 else ""}), and an export replaces its whole folder. '
                        'Name a new or empty folder.')


def _notes(tree: dict, output_op: str, checked: Verification | None) -> list:
    notes = []
    items = (tree.get('val_dataset') or {}).get('transforms') or []
    names = [item.get('type', '') for item in items if isinstance(item, dict)]
    scaling = [name for name in names if 'Resize' in name or name.startswith(('Scale', 'LimitLong'))]
    if scaling and output_op == 'argmax':
        notes.append(f'the transforms resize ({", ".join(scaling)}): with output_op argmax, infer scales labels back '
                     'by nearest neighbour and can differ from predict along borders; --output_op none gives equal '
                     'masks.')
    test = tree.get('test_config') or {}
    if test.get('is_slide') or test.get('aug_eval'):
        notes.append('test_config asks for a sliding window or augmentation; infer runs whole images once.')
    if checked and checked.onednn is False:
        notes.append('oneDNN does not compute this program rightly (some resizes, channels last), so infer leaves '
                     'oneDNN off for it: right, and slower.')
    if checked is None:
        notes.append('not verified: the program was not compared with the model.')
    return notes

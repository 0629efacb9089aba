"""The export folder as its `deploy.yaml` describes it: read, checked, and never trusted blindly."""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from paddleseg_ext.errors import UserError

__all__ = ['OUTPUT_OPS', 'Deployment', 'build_transforms', 'file_sha256']

OUTPUT_OPS = ('argmax', 'softmax', 'none')

_REQUIRED = ('model', 'params', 'transforms')


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Deployment:
    """An export folder.

    Attributes:
        folder: where `deploy.yaml` is.
        model, params: the program and its weights, existing files.
        transforms: PaddleSeg's transform dictionaries, as in YAML.
        output_op: `argmax` (labels), `softmax` (probabilities) or `none` (logits).
        input_shape: `[N, C, H, W]`, -1 where any value goes.
        in_channels: image channels.
        num_classes: classes of the model; 0 where the file does not say (PaddleSeg's own exports).
        ignore_index: label value that evaluation leaves out.
        minimum_size: smallest height and width, in pixels after the transforms; 0 where the file does not say.
        onednn: whether oneDNN computes the program rightly, as found when it was exported.
        class_names, colors: one per class; empty where the file does not say.
        test: the `test_config` of the training YAML, for people; whole images are run whatever it says.
        versions: what wrote the folder.
    """

    folder: Path
    model: Path
    params: Path
    transforms: list
    output_op: str = 'argmax'
    input_shape: tuple = (-1, 3, -1, -1)
    in_channels: int = 3
    num_classes: int = 0
    ignore_index: int = 255
    minimum_size: int = 0
    onednn: bool = True
    class_names: list = field(default_factory=list)
    colors: list = field(default_factory=list)
    test: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Deployment:
        """Read `deploy.yaml`, or the folder it is in.

        Raises:
            UserError: the file or one that it names is missing, changed, or does not fit.
        """
        path = Path(path)
        if path.is_dir():
            path = path / 'deploy.yaml'
        section = _read_section(path)
        output_op = section.get('output_op', 'argmax')
        if output_op not in OUTPUT_OPS:
            raise UserError(f'{path}: output_op is {output_op!r}, expected one of {", ".join(OUTPUT_OPS)}.')
        input_shape = _input_shape(path, section)
        in_channels = int(section.get('in_channels') or input_shape[1])
        if in_channels < 1:
            raise UserError(f'{path}: in_channels is missing and input_shape {list(input_shape)} does not tell it.')
        return cls(
            folder=path.parent,
            model=_named_file(path, section, 'model'),
            params=_named_file(path, section, 'params'),
            transforms=section['transforms'],
            output_op=output_op,
            input_shape=input_shape,
            in_channels=in_channels,
            num_classes=int(section.get('num_classes') or 0),
            ignore_index=int(section.get('ignore_index', 255)),
            minimum_size=_minimum_size(path, section),
            onednn=section.get('onednn') is not False,
            class_names=_entries(path, section, 'class_names'),
            colors=_entries(path, section, 'colors'),
            test=section.get('test') or {},
            versions=section.get('versions') or {},
        )

    def compose(self):
        """The pre-processing: PaddleSeg's Compose over the transforms, for BGR images of `in_channels` channels.

        Raises:
            UserError: a transform is unknown or does not take its arguments.
        """
        return build_transforms(self.transforms, in_channels=self.in_channels, source=str(self.folder / 'deploy.yaml'))


def build_transforms(items: list, *, in_channels: int, source: str):
    """Build PaddleSeg's Compose from transform dictionaries.

    Args:
        items: dictionaries with `type` (a registered name) and its arguments.
        in_channels: image channels.
        source: where they come from, for errors.

    Raises:
        UserError: a transform is unknown or does not take its arguments.
    """
    from paddleseg import transforms
    from paddleseg.cvlibs import manager

    built = []
    for item in items:
        arguments = dict(item) if isinstance(item, dict) else {}
        name = arguments.pop('type', None)
        known = manager.TRANSFORMS.components_dict
        if name not in known:
            raise UserError(f'{source}: transforms: {item!r} names no registered transform. Known are '
                            f'{", ".join(sorted(known))}. Import the module that registers yours first.')
        try:
            built.append(known[name](**arguments))
        except (TypeError, ValueError, AssertionError) as problem:
            raise UserError(f'{source}: transforms: {name} does not take {arguments}: {problem}') from problem
    return transforms.Compose(built, img_channels=in_channels)


def _read_section(path: Path) -> dict:
    try:
        tree = yaml.safe_load(path.read_text(encoding='utf-8'))
    except FileNotFoundError as problem:
        raise UserError(f'{path}: there is no such file. --config takes the deploy.yaml (or its folder) that '
                        '`paddleseg export` wrote.') from problem
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise UserError(f'{path}: cannot be read as YAML: {problem}') from problem
    section = tree.get('Deploy') if isinstance(tree, dict) else None
    if not isinstance(section, dict):
        raise UserError(f'{path}: has no Deploy section. --config takes the deploy.yaml that `paddleseg export` wrote, '
                        'not a training YAML.')
    missing = [key for key in _REQUIRED if section.get(key) is None]
    if missing:
        raise UserError(f'{path}: Deploy lacks {", ".join(missing)}. Export the model again.')
    if not isinstance(section['transforms'], list):
        raise UserError(f'{path}: Deploy.transforms must be a list.')
    return section


def _input_shape(path: Path, section: dict) -> tuple:
    shape = section.get('input_shape') or [-1, section.get('in_channels') or 3, -1, -1]
    shape = [-1 if side is None else side for side in shape] if isinstance(shape, list) else shape
    if not isinstance(shape, list) or len(shape) != 4 or not all(isinstance(side, int) for side in shape):
        raise UserError(f'{path}: input_shape is {shape!r}, expected four whole numbers [N, C, H, W], -1 for any.')
    return tuple(shape)


def _minimum_size(path: Path, section: dict) -> int:
    size = section.get('minimum_size') or 0
    if not isinstance(size, int) or size < 0:
        raise UserError(f'{path}: minimum_size is {size!r}, expected a whole number of pixels.')
    return size


def _named_file(path: Path, section: dict, key: str) -> Path:
    file = path.parent / str(section[key])
    if not file.is_file():
        raise UserError(f'{path}: names {section[key]} as its {key}, and {file} is not there. Copy the whole export '
                        'folder, or export again.')
    expected = (section.get('sha256') or {}).get(key)
    if expected and file_sha256(file) != expected:
        raise UserError(f'{file}: is not the file that was exported (its SHA-256 differs from the one in {path.name}): '
                        'damaged, or mixed from two exports. Copy the whole folder again, or export again.')
    return file


def _entries(path: Path, section: dict, key: str) -> list:
    entries = section.get(key) or []
    num_classes = section.get('num_classes')
    if entries and num_classes and len(entries) < num_classes:
        raise UserError(f'{path}: {key} has {len(entries)} entries for {num_classes} classes.')
    return list(entries)

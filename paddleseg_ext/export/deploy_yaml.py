"""What `deploy.yaml` says, gathered from the training YAML and the model."""
from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import paddle
import yaml

from paddleseg_ext import __version__
from paddleseg_ext.errors import UserError
from paddleseg_ext.files import atomic_write_text
from paddleseg_ext.inference.deploy import build_transforms, file_sha256

__all__ = ['deploy_section', 'in_channels_of', 'num_classes_of', 'write_deploy_yaml']

_OUTPUT_DTYPES = {'argmax': 'int32', 'softmax': 'float32', 'none': 'float32'}


def in_channels_of(tree: dict) -> int:
    """Image channels that the YAML asks for: of the model, its backbone or the data set; 3 where nobody says."""
    model = tree.get('model') or {}
    sources = [model, model.get('backbone') or {}, model.get('backbone_cfg') or {}]
    for source in sources:
        if isinstance(source, dict) and source.get('in_channels'):
            return int(source['in_channels'])
    for dataset in ('val_dataset', 'train_dataset'):
        if (tree.get(dataset) or {}).get('img_channels'):
            return int(tree[dataset]['img_channels'])
    return 3


def num_classes_of(tree: dict, model: paddle.nn.Layer) -> int:
    """Number of classes, from the YAML or else from the model.

    Raises:
        UserError: neither says it.
    """
    for section in ('model', 'val_dataset', 'train_dataset'):
        if (tree.get(section) or {}).get('num_classes'):
            return int(tree[section]['num_classes'])
    num_classes = getattr(model, 'num_classes', None) or _dataset_classes(tree)
    if not num_classes:
        raise UserError('num_classes is in neither the model nor the data sets of the YAML: add it to the model.')
    return int(num_classes)


def deploy_section(tree: dict, model: paddle.nn.Layer, *, input_shape: Sequence[int], output_op: str,
                   input_name: str) -> dict:
    """The `Deploy` section without the files, which `write_deploy_yaml` adds.

    Args:
        tree: the merged training YAML.
        model: the segmentor.
        input_shape: `[N, C, H, W]`, -1 where any value goes.
        output_op: `argmax`, `softmax` or `none`.
        input_name: name of the program's input.

    Raises:
        UserError: the YAML has no validation transforms, or they do not build.
    """
    import paddleseg

    from paddleseg_ext.data.classes import class_colors, class_names

    num_classes = num_classes_of(tree, model)
    dataset = tree.get('val_dataset') or {}
    transforms = copy.deepcopy(dataset.get('transforms'))
    if transforms is None:
        raise UserError('the YAML has no val_dataset.transforms: an exported model needs to know its pre-processing. '
                        'Add a val_dataset section; its images need not exist.')
    build_transforms(transforms, in_channels=int(input_shape[1]), source='val_dataset')
    return {
        'input_shape': [int(side) for side in input_shape],
        'input_name': input_name,
        'output_op': output_op,
        'output_dtype': _OUTPUT_DTYPES[output_op],
        'transforms': transforms,
        'num_classes': num_classes,
        'ignore_index': int(dataset.get('ignore_index', 255)),
        'class_names': [str(name) for name in class_names(tree, num_classes)],
        'colors': [[int(value) for value in color] for color in class_colors(tree, num_classes)],
        'in_channels': int(input_shape[1]),
        **_minimum_size(model),
        'test': copy.deepcopy(tree.get('test_config') or {}),
        'versions': {'paddlepaddle': paddle.__version__, 'paddleseg': paddleseg.__version__,
                     'paddleseg_ext': __version__},
    }


def write_deploy_yaml(folder: Path, section: dict, *, program: str, params: str) -> None:
    """Write `folder/deploy.yaml` for the files `program` and `params` that lie in `folder`."""
    sha256 = {'model': file_sha256(folder / program), 'params': file_sha256(folder / params)}
    tree = {'Deploy': {'model': program, 'params': params, **section, 'sha256': sha256}}
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    atomic_write_text(folder / 'deploy.yaml', text)


def _minimum_size(model: paddle.nn.Layer) -> dict:
    """The entry `minimum_size` of a model that says which images are too small for it; none of others.

    NOTE: the model's own check cannot be in the program, where height and width are not known while tracing.
    """
    size = getattr(model, 'minimum_size', None)
    return {'minimum_size': size} if isinstance(size, int) else {}


def _dataset_classes(tree: dict) -> int:
    """`NUM_CLASSES` of the registered data set class, 0 where there is none."""
    from paddleseg.cvlibs import manager

    name = (tree.get('val_dataset') or tree.get('train_dataset') or {}).get('type')
    return int(getattr(manager.DATASETS.components_dict.get(name), 'NUM_CLASSES', 0) or 0)

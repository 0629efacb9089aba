"""Keys of a configuration that no component's signature tells: the top level and the sections PaddleSeg reads by hand.

The check, the JSON schema and `--opts` all read these tables.
"""
from __future__ import annotations

from dataclasses import dataclass

__all__ = ['ALSO_ACCEPTED', 'BUILDER_FILLS', 'CLIP_CLASSES', 'COMPONENT_SECTIONS', 'CUSTOM_GROUP', 'EVALUATED',
           'EXPORT', 'LOSS', 'LOSS_SECTIONS', 'NESTED_KINDS', 'OPTIMIZER_ALIASES', 'PAIRS',
           'REQUIRED_SECTIONS', 'TEST_CONFIG', 'TOP_LEVEL', 'WARMUP', 'Key', 'accepted_keys',
           'optimizer_type']


@dataclass(frozen=True)
class Key:
    """One known key: what it means and the kinds of value it takes (int, float, bool, str, list, dict, none)."""

    kinds: tuple
    description: str
    minimum: float | None = None
    length: int | None = None


TOP_LEVEL = {
    'batch_size':         Key(('int',), 'Images per step on one device.', minimum=1),
    'iters':              Key(('int',), 'Training steps in all.', minimum=1),
    'train_dataset':      Key(('dict',), 'The data to train on, with its transforms.'),
    'val_dataset':        Key(('dict',), 'The data to evaluate on, with its transforms.'),
    'model':              Key(('dict',), 'The network.'),
    'loss':               Key(('dict',), 'One loss per output of the model in training, and their weights.'),
    'distill_loss':       Key(('dict',), 'The losses between student and teacher, in distillation.'),
    'optimizer':          Key(('dict',), 'The optimizer.'),
    'lr_scheduler':       Key(('dict',), 'The learning rate over the steps.'),
    'test_config':        Key(('dict',), 'How val and predict run the network: whole image, sliding window, scales.'),
    'export':             Key(('dict',), 'What the export writes into deploy.yaml.'),
    'to_static_training': Key(('bool',), 'Train through a static graph.'),
    'seed':               Key(('int',), 'Seed of all random numbers.', minimum=0),
}
REQUIRED_SECTIONS = ('batch_size', 'iters', 'train_dataset', 'optimizer', 'lr_scheduler', 'loss', 'model')

# Sections that are one component, and the registries its type may come from.
COMPONENT_SECTIONS = {'train_dataset': 'dataset', 'val_dataset': 'dataset', 'model': 'model', 'optimizer': 'optimizer'}
LOSS_SECTIONS = ('loss', 'distill_loss')

# Arguments of components that are components themselves, and of what kind.
NESTED_KINDS = {'backbone': 'backbone', 'transforms': 'transform', 'common_transforms': 'transform',
                'transforms1': 'transform', 'transforms2': 'transform', 'losses': 'loss', 'types': 'loss'}

# Arguments that PaddleSeg's builder sets itself where the YAML leaves them out: (kind of component, argument).
BUILDER_FILLS = {('model', 'num_classes'), ('model', 'in_channels'), ('backbone', 'in_channels'),
                 ('loss', 'ignore_index')}

# Arguments that PaddleSeg passes to `eval`, and the only texts that are let through.
EVALUATED = {'norm_layer': r'nn\.[A-Za-z][A-Za-z0-9]*', 'arm_type': r'[A-Za-z][A-Za-z0-9_]*'}

# Arguments whose documentation names fewer kinds than PaddleSeg's released configurations rely on: a padding value per
# channel, a short side drawn from several, the widths of CAE's pyramid.
ALSO_ACCEPTED = {'im_padding_value': ('list',), 'short_size': ('list',), 'channels_fpn': ('list',)}

# List arguments that are (width, height) or another pair, whatever the component.
PAIRS = ('crop_size', 'target_size', 'stride', 'retain_ratio', 'size')

LOSS = {
    'types': Key(('list',), 'The losses, one per output of the model, or a single one for all of them.'),
    'coef':  Key(('list',), 'The weight of each loss, one number per output of the model.'),
}
TEST_CONFIG = {
    'aug_eval':        Key(('bool',), 'Average over scales and flips.'),
    'scales':          Key(('list', 'float'), 'Scales to average over, with aug_eval.'),
    'flip_horizontal': Key(('bool',), 'Average over the mirrored image too, with aug_eval.'),
    'flip_vertical':   Key(('bool',), 'Average over the image upside down too, with aug_eval.'),
    'is_slide':        Key(('bool',), 'Run a sliding window over the image.'),
    'crop_size':       Key(('list', 'none'), 'Size of the window, [width, height].', length=2),
    'stride':          Key(('list', 'none'), 'Step of the window, [width, height]; at most its size.', length=2),
    'auc_roc':         Key(('bool',), 'Report the area under the ROC curve too (PaddleSeg only).'),
}
EXPORT = {'transforms': Key(('list',), 'Transforms for deploy.yaml in place of those of val_dataset.')}
WARMUP = {
    'warmup_iters':    Key(('int',), 'Steps over which the learning rate rises to its first value.', minimum=0),
    'warmup_start_lr': Key(('float',), 'Learning rate of the first warm-up step.', minimum=0),
}
CUSTOM_GROUP = {
    'name':              Key(('str',), 'A piece of the parameter names that this group takes.'),
    'lr_mult':           Key(('float',), "Factor on the group's learning rate."),
    'weight_decay_mult': Key(('float',), "Factor on the group's weight decay."),
}
CLIP_CLASSES = {
    'ClipGradByGlobalNorm': {'clip_norm': Key(('float',), 'Largest norm of all gradients together.'),
                             'group_name': Key(('str',), "Name of the group."),
                             'auto_skip_clip': Key(('bool',), 'Skip the work where nothing needs clipping.')},
    'ClipGradByNorm':       {'clip_norm': Key(('float',), 'Largest norm of each gradient.')},
    'ClipGradByValue':      {'max': Key(('float',), 'Largest value.'),
                             'min': Key(('float', 'none'), 'Smallest value; -max where it is absent.')},
}
OPTIMIZER_ALIASES = {'adam': 'Adam', 'sgd': 'SGD'}

_PLAIN_SECTIONS = {('test_config',): TEST_CONFIG, ('export',): EXPORT, **{(name,): LOSS for name in LOSS_SECTIONS}}


def optimizer_type(section: dict) -> object:
    """The optimizer that PaddleSeg's builder makes of a section: 'sgd' is SGD, and SGD with momentum is Momentum."""
    name = section.get('type')
    name = OPTIMIZER_ALIASES.get(name, name) if isinstance(name, str) else name
    return 'Momentum' if name == 'SGD' and 'momentum' in section else name


def accepted_keys(tree: dict, path: tuple) -> set | None:
    """The keys that a mapping at `path` of a merged tree may have; None where that cannot be known.

    Imports Paddle where the mapping belongs to a component.
    """
    if not path:
        return set(TOP_LEVEL)
    if path in _PLAIN_SECTIONS:
        return set(_PLAIN_SECTIONS[path])
    section = tree
    for key in path:
        section = section.get(key) if isinstance(section, dict) else section[key] if isinstance(section, list) else None
    if path[-1] == 'grad_clip_cfg':
        return {'name'}.union(*CLIP_CLASSES.values())
    if not isinstance(section, dict) or 'type' not in section:
        return {'type'} if path[-1] in COMPONENT_SECTIONS else None
    return _component_keys(section, path)


def _component_keys(section: dict, path: tuple) -> set | None:
    from paddleseg_ext.config.signatures import component_signature, schedule_signature
    if path == ('lr_scheduler',):
        signature = schedule_signature(section['type'])
    else:
        name = optimizer_type(section) if path == ('optimizer',) else section['type']
        signature = component_signature(name)
    if signature is None or signature.open:
        return None
    extra = set(WARMUP) if path == ('lr_scheduler',) else {'momentum'} if path == ('optimizer',) else set()
    return {'type', *signature.arguments, *extra}

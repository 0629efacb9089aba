"""The names and colours of the classes that a configuration is about."""
from __future__ import annotations

from pathlib import Path

from paddleseg_ext.data.class_tables import ADE20K_NAMES, CITYSCAPES, COCO_STUFF_NAMES, PASCAL_VOC_NAMES
from paddleseg_ext.data.palette import voc_palette
from paddleseg_ext.errors import UserError

__all__ = ['class_names', 'class_colors', 'voc_palette']

# data set types of PaddleSeg: (names, colours or None for the VOC palette)
BUILT_IN = {
    'Cityscapes': ([name for name, _ in CITYSCAPES], [list(color) for _, color in CITYSCAPES]),
    'ADE20K': (list(ADE20K_NAMES), None),
    'PascalVOC': (list(PASCAL_VOC_NAMES), None),
    'CocoStuff': (list(COCO_STUFF_NAMES), None),
}


def class_names(tree: dict, num_classes: int) -> list[str]:
    """Returns the names of the classes.

    In this order: CLASS_NAMES of the data set's class, `<dataset_root>/classes.txt` (a `name [r g b]` line per class),
    the built-in table of the type, else 'class_0', 'class_1' …

    Args:
        tree: the merged configuration; its val_dataset, else its train_dataset, is looked at.
        num_classes: how many classes the model has. A table with another number of rows is not used.

    Raises:
        UserError: classes.txt has another number of rows, or a row that cannot be read.
    """
    names, _ = _look_up(tree, num_classes)
    return names or [f'class_{class_id}' for class_id in range(num_classes)]


def class_colors(tree: dict, num_classes: int) -> list[list[int]]:
    """Returns the colours [r, g, b] of the classes from where `class_names` finds the names, else the VOC palette."""
    _, colors = _look_up(tree, num_classes)
    return colors or voc_palette(num_classes)


def _look_up(tree: dict, num_classes: int) -> tuple:
    """Returns (names, colours), either None where unknown."""
    section = next((tree[key] for key in ('val_dataset', 'train_dataset') if isinstance(tree.get(key), dict)), {})
    kind = section.get('type')
    component = _dataset_class(kind)
    names = getattr(component, 'CLASS_NAMES', None)
    if names and len(names) == num_classes:
        return list(names), [list(color) for color in getattr(component, 'CLASS_COLORS', None) or []] or None
    listing = Path(str(section.get('dataset_root', ''))) / 'classes.txt'
    if section.get('dataset_root') and listing.is_file():
        return _read_classes(listing, num_classes)
    names, colors = BUILT_IN.get(kind, (None, None))
    return (names, colors) if names and len(names) == num_classes else (None, None)


def _dataset_class(kind):
    """Returns the registered data set class of that name, None where there is none."""
    from paddleseg_ext.registry import components
    return components('dataset').get(kind)


def _read_classes(listing: Path, num_classes: int) -> tuple[list[str], list | None]:
    names, colors = [], []
    for number, line in enumerate(listing.read_text(encoding='utf-8').splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        color = fields[-3:]
        if len(fields) > 3 and all(value.isdigit() for value in color):
            if max(map(int, color)) > 255:
                raise UserError(f'{listing}:{number}: colours are 0–255, found {" ".join(color)}')
            names.append(' '.join(fields[:-3]))
            colors.append([int(value) for value in color])
        else:
            names.append(' '.join(fields))
    if len(names) != num_classes:
        raise UserError(f'{listing} names {len(names)} classes, but the configuration has num_classes {num_classes}')
    if colors and len(colors) != len(names):
        raise UserError(f'{listing}: give a colour (r g b) to every class or to none')
    return names, colors or None

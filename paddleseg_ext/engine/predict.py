"""Predict images from disk: ids, palette masks and overlays."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_ext.data.image_io import ImageItem, displayable, preprocess, read_image
from paddleseg_ext.data.outputs import claim_outputs
from paddleseg_ext.data.render import write_prediction
from paddleseg_ext.engine.evaluate import evaluation_mode
from paddleseg_ext.engine.forward import Model, TestOptions, predict_labels
from paddleseg_ext.engine.progress import progress_bar

__all__ = ['PredictionReport', 'predict_folder', 'predict_image']


@dataclass
class PredictionReport:
    """What became of the images.

    Attributes:
        written: image → its three files (ids, palette, overlay).
        failures: image → why it has none.
    """

    written: dict[Path, list[Path]] = field(default_factory=dict)
    failures: dict[Path, str] = field(default_factory=dict)


def predict_image(model: Model, image: np.ndarray, compose: Any, options: TestOptions | None = None) -> np.ndarray:
    """Class ids of one image at its own size.

    Args:
        model: in evaluation mode.
        image: as ``data.image_io.read_image`` gives it (BGR, 0–255).
        compose: PaddleSeg's ``Compose`` of the validation transforms.
        options: how to test.

    Returns:
        int32 ``[H, W]``.

    Raises:
        UserError: an image that the transforms cannot take.
    """
    pixels, trans_info = preprocess(image, compose)
    return predict_labels(model, pixels[np.newaxis], trans_info, options)[0]


def predict_folder(model: Model, compose: Any, items: Sequence[ImageItem], save_dir: str | Path,
                   options: TestOptions | None = None, *, names: Sequence[str], colors: Sequence[Sequence[int]],
                   progress: bool = True) -> PredictionReport:
    """Predict images and write the results of each; an image that cannot be done does not keep the others from it.

    Args:
        model: a layer (put into evaluation mode and back) or any callable.
        compose: PaddleSeg's ``Compose`` of the validation transforms; its `img_channels` is what images are read as.
        items: what ``data.image_io.list_images`` gave.
        save_dir: gets `label_ids`, `pseudo_color_prediction` and `added_prediction`, with the images' sub-folders.
        options: how to test.
        names, colors: by class.
        progress: show a bar on stderr.

    Returns:
        files written and failures, by image.

    Raises:
        UserError: results would overwrite those of another image; nothing is written then.
    """
    outputs = claim_outputs(items, save_dir)
    report = PredictionReport()
    with evaluation_mode(model), progress_bar(len(items), 'predict', enabled=progress) as bar:
        for item, output in zip(items, outputs):
            try:
                image = read_image(item.path, channels=compose.img_channels)
                mask = predict_image(model, image, compose, options)
            except (ValueError, RuntimeError, MemoryError) as error:
                report.failures[item.path] = _reason(item, error)
            else:
                files = write_prediction(save_dir, output, mask, displayable(image), colors, names)
                report.written[item.path] = files
            bar.update()
    return report


def _reason(item: ImageItem, error: Exception) -> str:
    """The error's text without the image's path, which the report has already."""
    text = str(error).strip() or type(error).__name__
    return text[len(f'{item.path}: '):] if text.startswith(f'{item.path}: ') else text

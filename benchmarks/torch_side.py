"""timm's classifiers on PyTorch: the reference of every comparison, and the first of the measured things."""
from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

__all__ = ['forward_step', 'training_step', 'write_reference']

SIZES = {'N': 'nano', 'T': 'tiny', 'S': 'small', 'M': 'medium', 'B': 'base', 'L': 'large'}


def timm_name(name: str) -> str:
    """'twins_svt_small' for 'Twins_SVT_S', 'xcit_nano_12_p16_224' for 'XCiT_N12_P16'."""
    if name.startswith('XCiT_'):
        _, size, patch = name.split('_')
        return f'xcit_{SIZES[size[0]]}_{size[1:]}_{patch.lower()}_224'
    family, size = name.lower().rsplit('_', 1)
    return f'{family}_{SIZES[size.upper()]}'


def _create(name: str) -> torch.nn.Module:
    """timm's classifier with new weights."""
    # NOTE: importing `parity` puts the stand-ins in place without which timm cannot be imported, so it comes first.
    importlib.import_module('parity')
    return importlib.import_module('timm').create_model(timm_name(name))


def write_reference(name: str, folder: Path, *, size: int, batch: int) -> None:
    """Write random weights, images and labels, and what timm makes of them.

    Files: `weights.safetensors`; `image.npy` [1, 3, size, size] with `logits.npy`; `images.npy` [batch, 3, size, size]
    and `labels.npy` [batch] with `losses.npy`, those of two training steps, if there is a batch.
    """
    torch.manual_seed(0)
    model = _create(name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    save_file(model.state_dict(), str(folder / 'weights.safetensors'))
    np.save(folder / 'image.npy', torch.randn(1, 3, size, size).numpy())
    np.save(folder / 'images.npy', torch.randn(batch, 3, size, size).numpy())
    np.save(folder / 'labels.npy', torch.randint(0, 1000, (batch,)).numpy())
    np.save(folder / 'logits.npy', forward_step(name, folder)())
    if batch:
        step = training_step(name, folder)
        np.save(folder / 'losses.npy', np.asarray([step(), step()]))


def _model(name: str, folder: Path) -> torch.nn.Module:
    model = _create(name)
    model.load_state_dict(load_file(str(folder / 'weights.safetensors')))
    return model


def forward_step(name: str, folder: Path) -> Callable[[], np.ndarray]:
    model = _model(name, folder).eval()
    image = torch.from_numpy(np.load(folder / 'image.npy'))

    def step() -> np.ndarray:
        with torch.inference_mode():
            return model(image).numpy()

    return step


def training_step(name: str, folder: Path) -> Callable[[], float]:
    model = _model(name, folder).train()
    images, labels = (torch.from_numpy(np.load(folder / f'{kind}.npy')) for kind in ('images', 'labels'))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)

    def step() -> float:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step

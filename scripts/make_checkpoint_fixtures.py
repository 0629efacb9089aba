"""Writes tests/fixtures/checkpoints: small files of PyTorch in the shapes that training programs leave them.

    .venv-parity/bin/python -m scripts.make_checkpoint_fixtures

Needs PyTorch. Two of the files are armed on purpose: an ordinary unpickler would write a file named as WITNESS says,
in the folder it runs in.
"""
from __future__ import annotations

import sys
import types
from collections import OrderedDict
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parents[1] / 'tests' / 'fixtures' / 'checkpoints'
WITNESS = 'a_checkpoint_ran_code'


class Armed:
    """Pickles as a call that leaves a file behind."""

    def __reduce__(self):
        return eval, (f'open({WITNESS!r}, "w").close()',)


def state(dtype: torch.dtype = torch.float32) -> OrderedDict:
    """A linear layer and a batch norm, with values that every precision holds."""
    return OrderedDict(
        [('fc.weight', torch.arange(6.).reshape(2, 3).to(dtype)), ('fc.bias', torch.tensor([0.5, -1.]).to(dtype)),
         ('bn.running_mean', torch.tensor([1., 2.])), ('bn.num_batches_tracked', torch.tensor(7))])


def history_buffer() -> object:
    """An object of mmengine's class, which its training checkpoints hold, without mmengine."""
    module = types.ModuleType('mmengine.logging.history_buffer')
    for name in ('mmengine', 'mmengine.logging'):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules[module.__name__] = module
    module.HistoryBuffer = type('HistoryBuffer', (), {'__module__': module.__name__, '__qualname__': 'HistoryBuffer'})
    return module.HistoryBuffer()


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    half = {**state(torch.float16), 'fc.bias': state(torch.bfloat16)['fc.bias']}
    files = {
        'plain.pth': state(),
        'half.pth': half,
        'mmsegmentation.pth': {'meta': {'CLASSES': ('road', 'sky'), 'epoch': 3}, 'state_dict': state()},
        'average.pth': {'epoch': 3, 'state_dict': {name: 0 * value for name, value in state().items()},
                        'state_dict_ema': state()},
        'wrapped.pth': {'model': {'module.' + name: value for name, value in state().items()}, 'epoch': 3},
        'parameters.pth': torch.nn.Linear(3, 2).state_dict(keep_vars=True),
        'training.pth': {'state_dict': state(), 'message_hub': history_buffer()},
        'armed.pth': {'state_dict': state(), 'extra': Armed()},
        'list.pth': [torch.ones(2)],
    }
    for name, content in files.items():
        torch.save(content, FOLDER / name)
    for name in ('plain', 'armed'):
        torch.save(files[f'{name}.pth'], FOLDER / f'{name}_legacy.pth', _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), FOLDER / 'program.pt')
    for file in sorted(FOLDER.iterdir()):
        print(f'{file.stat().st_size:6} {file.name}')


if __name__ == '__main__':
    main()

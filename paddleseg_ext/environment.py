"""Versions of what is installed, and the combinations known not to work. Quick: reads metadata, imports no Paddle."""
from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from paddleseg_ext.errors import UserError

__all__ = ['MINIMUM_PADDLE', 'PADDLESEG_VERSION', 'TESTED_PADDLE', 'Problem', 'installed_version',
           'choose_matrix_kernels', 'onednn_inference_works', 'paddle_version', 'parse_version', 'problems',
           'require_paddle']

PADDLESEG_VERSION = '2.8.0'
MINIMUM_PADDLE = (2, 6)
TESTED_PADDLE = ('2.6.2', '3.0.0', '3.2.2', '3.3.1')
_CPU_INSTALL = 'pip install paddlepaddle==3.2.2 "numpy<2"'
_GPU_INSTALL = ('pip install paddlepaddle-gpu==3.2.2 -i https://www.paddlepaddle.org.cn/packages/stable/cu126/ '
                '(or cu118, cu129: what your driver allows)')
_PADDLESEG_INSTALL = f'pip install "paddleseg=={PADDLESEG_VERSION}" "numpy<2"'
_OPENCVS = ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python', 'opencv-contrib-python-headless')


@dataclass(frozen=True)
class Problem:
    """A combination known not to work: its level ('error' or 'warning'), what is wrong and what to do."""
    level: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f'{self.what}: {self.remedy}'


def installed_version(distribution: str) -> str | None:
    """The version pip installed, read from the package's metadata; None if it is absent."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def parse_version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version, at least three: ``'3.0.0rc1'`` gives (3, 0, 0), ``'2.6'`` gives (2, 6, 0)."""
    numbers = []
    for part in text.split('.'):
        digits = part[:len(part) - len(part.lstrip('0123456789'))]
        if digits:
            numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers) + (0,) * (3 - len(numbers))


def paddle_version() -> str | None:
    """The version of Paddle that ``import paddle`` would give (the CPU or the GPU package); None if there is none."""
    return installed_version('paddlepaddle-gpu') or installed_version('paddlepaddle')


def onednn_inference_works(version: str) -> bool:
    """Whether Paddle Inference may use oneDNN on the CPU: not on 3.3.0 and 3.3.1, where every interpolate fails.

    Args:
        version: such as ``'3.2.2'`` (Paddle's, ``paddle_version()``).
    """
    # NOTE: the list ends with 3.3.1, the newest release known; doctor's smoke test tells what a later one does.
    return parse_version(version)[:3] not in ((3, 3, 0), (3, 3, 1))


def choose_matrix_kernels(cpu_description: Path = Path('/proc/cpuinfo')) -> None:
    """Let Paddle's mathematics library use its AVX2 kernels on AMD processors; call it before Paddle computes.

    Paddle brings a release of Intel's MKL from 2019, which takes its slowest kernels on processors of other makers
    unless MKL_DEBUG_CPU_TYPE says 5 (AVX2). Matrix products were 2 to 3 times as fast with it here, training 1.8
    times. A value that is set already stays; later releases of MKL ignore it.
    """
    try:
        description = cpu_description.read_text()
    except OSError:  # not Linux
        return
    if {'AuthenticAMD', 'avx2'} <= set(description.split()):
        os.environ.setdefault('MKL_DEBUG_CPU_TYPE', '5')


def problems() -> list[Problem]:
    """Every known-bad combination that is installed here, errors first."""
    found = _paddle_problems() + _numpy_problems() + _paddleseg_problems() + _setuptools_problems()
    return sorted(found, key=lambda problem: problem.level != 'error')


def require_paddle() -> None:
    """Raise one UserError with every error-level problem and its remedy, if there is any."""
    errors = [problem for problem in problems() if problem.level == 'error']
    if len(errors) == 1:
        raise UserError(str(errors[0]))
    if errors:
        raise UserError('this installation cannot work:\n' + '\n'.join(f'  - {error}' for error in errors))


def _paddle_problems() -> list[Problem]:
    cpu, gpu = installed_version('paddlepaddle'), installed_version('paddlepaddle-gpu')
    if not cpu and not gpu:
        return [Problem('error', 'Paddle is not installed', f'{_CPU_INSTALL}, or on a GPU {_GPU_INSTALL}')]
    found = []
    if cpu and gpu:
        found.append(Problem(
            'error', f'paddlepaddle {cpu} and paddlepaddle-gpu {gpu} overwrite each other\'s files',
            f'pip uninstall -y paddlepaddle paddlepaddle-gpu, then {_CPU_INSTALL} or {_GPU_INSTALL}'))
    version = gpu or cpu
    # NOTE: builds of Paddle from source call themselves 0.0.0; nothing is known against them.
    if (0, 0, 0) < parse_version(version) < MINIMUM_PADDLE:
        found.append(Problem('error', f'Paddle {version} is too old, 2.6 is the oldest that works',
                             f'{_CPU_INSTALL}, or on a GPU {_GPU_INSTALL}'))
    if not onednn_inference_works(version):
        found.append(Problem(
            'warning', f'Paddle {version} cannot interpolate with oneDNN in CPU inference (Paddle#77340)',
            'nothing to do, paddleseg infer leaves oneDNN off there; paddlepaddle 3.2.2 is about 4 times as fast'))
    return found


def _numpy_problems() -> list[Problem]:
    numpy = installed_version('numpy')
    if numpy is None:
        return [Problem('error', 'numpy is not installed', 'pip install "numpy<2"')]
    found = []
    if parse_version(numpy) >= (2, 4):
        found.append(Problem('error', f'numpy {numpy} breaks Paddle (int() of a one-element tensor raises)',
                             'pip install "numpy<2"'))
    for name in _OPENCVS:
        opencv = installed_version(name)
        if opencv and parse_version(numpy) >= (2,) and parse_version(opencv) < (4, 10):
            found.append(Problem('error', f'{name} {opencv} needs numpy 1 and does not import with numpy {numpy}',
                                 'pip install "numpy<2", and repeat that pin in every later pip install'))
    return found


def _paddleseg_problems() -> list[Problem]:
    version = installed_version('paddleseg')
    if version is None:
        return [Problem('error', 'PaddleSeg is not installed', _PADDLESEG_INSTALL)]
    if version != PADDLESEG_VERSION:
        return [Problem('warning', f'PaddleSeg {version} is installed, this is made for {PADDLESEG_VERSION}, '
                        'and only its faults are mended', _PADDLESEG_INSTALL)]
    return []


def _setuptools_problems() -> list[Problem]:
    if sys.version_info >= (3, 12) and importlib.util.find_spec('setuptools') is None:
        return [Problem('error', 'setuptools is not installed, and Paddle imports it', 'pip install setuptools')]
    return []

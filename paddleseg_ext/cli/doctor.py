"""``paddleseg doctor``: what is installed, what does not work together, and what to do about it.

Whatever could crash (Paddle, OpenCV, oneDNN) runs in a child process, so that doctor works in a broken installation.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from paddleseg_ext import environment

__all__ = ['SUMMARY', 'Check', 'add_arguments', 'examine', 'probe', 'run']

SUMMARY = 'show versions, devices and known-bad combinations, and what to do about them'
PACKAGES = ('paddleseg', 'numpy', 'opencv-python', 'opencv-python-headless', 'pillow', 'scipy', 'PyYAML',
            'safetensors', 'matplotlib')
EXTRAS = {
    'paddle2onnx': 'export', 'onnx': 'export', 'onnxruntime': 'export', 'openvino': 'export', 'pytest': 'test',
}
CPU_FLAGS = ('avx2', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_bf16', 'amx_int8')
PROBE_SECONDS = 180
_MARK = '@doctor '


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Args:
        status: 'OK', 'WARN' (works, but not as it should), 'FAIL' (does not work) or 'INFO'.
        topic: what was looked at.
        text: what was found.
        remedy: what to do; empty where there is nothing to do.
    """
    status: str
    topic: str
    text: str
    remedy: str = ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``doctor``."""
    parser.add_argument('--json', action='store_true', help='print the report as JSON')


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if something fails, else 0."""
    sections = examine()
    failed = any(check.status == 'FAIL' for checks in sections.values() for check in checks)
    if args.json:
        report = {title: [asdict(check) for check in checks] for title, checks in sections.items()}
        print(json.dumps({'ok': not failed, 'sections': report}, indent=2))
    else:
        print(_as_text(sections))
    return 1 if failed else 0


def examine() -> dict[str, list[Check]]:
    """Every check by section, in the order of the report."""
    found = _probe_all(_needed_probes())
    sections = {'system': _system(), 'packages': _packages(), 'devices': _devices(found.get('paddle'))}
    sections['components'] = [_component(name, found[name]) for name in ('opencv', 'paddleseg', 'visualdl')
                              if name in found]
    if 'onednn' in found:
        sections['components'].append(_onednn(found['onednn']))
    sections['extras'] = [_extra(name, extra) for name, extra in EXTRAS.items()]
    sections['combinations'] = [Check('FAIL' if problem.level == 'error' else 'WARN', problem.level, problem.what,
                                      problem.remedy) for problem in environment.problems()]
    if not sections['combinations']:
        sections['combinations'] = [Check('OK', 'known problems', 'none')]
    return sections


def _needed_probes() -> list[str]:
    present = {name: environment.installed_version(name) for name in ('paddleseg', 'visualdl')}
    paddle = environment.paddle_version()
    needed = {'opencv': True, 'paddle': paddle, 'paddleseg': paddle and present['paddleseg'],
              'visualdl': present['visualdl'], 'onednn': paddle}
    return [name for name, wanted in needed.items() if wanted]


def _system() -> list[Check]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    flags = _cpu_flags()
    checks = [
        Check('INFO', 'python', f'{platform.python_version()} ({sys.executable})'),
        Check('INFO', 'system', f'{platform.system()} {platform.release()} {platform.machine()}'),
        Check('INFO', 'processor', f'{usable} of {os.cpu_count()} cores usable; '
              + (' '.join(flags) if flags else 'no vector extensions known')),
    ]
    memory = _memory_gib()
    if memory:
        checks.append(Check('INFO', 'memory', f'{memory[0]:.1f} GiB, {memory[1]:.1f} GiB available'))
    return checks


def _cpu_flags() -> list[str]:
    """The vector extensions the processor has, of those that matter here; empty where the system does not say."""
    source = Path('/proc/cpuinfo')
    if not source.exists():
        return []
    for line in source.read_text(encoding='utf-8', errors='replace').splitlines():
        if line.startswith('flags'):
            present = set(line.split(':', 1)[1].split())
            return [flag for flag in CPU_FLAGS if flag in present]
    return []


def _memory_gib() -> tuple[float, float] | None:
    """Total and available memory in GiB; None where the system does not say."""
    source = Path('/proc/meminfo')
    if not source.exists():
        return None
    sizes = dict(line.split(':', 1) for line in source.read_text(encoding='utf-8').splitlines() if ':' in line)
    total, available = (int(sizes[key].split()[0]) / 2**20 for key in ('MemTotal', 'MemAvailable'))
    return total, available


def _packages() -> list[Check]:
    checks = []
    for name in ('paddlepaddle', 'paddlepaddle-gpu', *PACKAGES):
        version = environment.installed_version(name)
        if version:
            checks.append(Check('INFO', name, version))
    if environment.paddle_version() is None:
        checks.insert(0, Check('INFO', 'paddlepaddle', 'not installed'))
    return checks


def _extra(name: str, extra: str) -> Check:
    version = environment.installed_version(name)
    if version:
        return Check('INFO', name, version)
    return Check('INFO', name, 'not installed',
                 f"if you need it, in a checkout: pip install -c constraints.txt '.[{extra}]'")


def _devices(found: dict | None) -> list[Check]:
    if found is None:
        return [Check('FAIL', 'paddle', 'not installed, so no device can be used')]
    if 'error' in found:
        return [Check('FAIL', 'import paddle', found['error'], 'see the combinations below, or reinstall Paddle')]
    checks = [Check('OK', 'import paddle', f'{found["version"]} in {found["seconds"]:.1f} s'),
              Check('OK', 'cpu', 'usable')]
    if not found['cuda']:
        checks.append(Check('INFO', 'gpu', 'this Paddle is built without CUDA'))
    elif not found['gpus']:
        checks.append(Check('WARN', 'gpu', f'Paddle is built for CUDA {found["cuda"]}, but sees no GPU',
                            'check nvidia-smi and the driver, or train on the CPU with --device cpu'))
    else:
        checks.extend(Check('OK', f'gpu:{index}', f'{name} (CUDA {found["cuda"]}, cuDNN {found["cudnn"]})')
                      for index, name in enumerate(found['gpus']))
    return checks


def _component(name: str, found: dict) -> Check:
    remedies = {
        'opencv': 'apt-get install -y libgl1 libglib2.0-0 if a library (libGL.so.1, libgthread) is missing; else '
                  'pip install "numpy<2" opencv-python==4.5.5.64',
        'paddleseg': f'pip install "paddleseg=={environment.PADDLESEG_VERSION}" "numpy<2"',
        'visualdl': 'pip install visualdl, or train without --use_vdl',
    }
    if 'error' in found:
        return Check('WARN' if name == 'visualdl' else 'FAIL', f'import {name}', found['error'], remedies[name])
    return Check('OK', f'import {name}', f'{found["version"]} in {found["seconds"]:.1f} s')


def _onednn(found: dict) -> Check:
    if 'error' not in found:
        return Check('OK', 'oneDNN inference', f'largest difference from plain inference {found["difference"]:.1e}')
    version = environment.paddle_version()
    if environment.onednn_inference_works(version):
        return Check('FAIL', 'oneDNN inference', found['error'], 'pip install paddlepaddle==3.2.2')
    return Check('WARN', 'oneDNN inference', f'does not work on Paddle {version}; paddleseg infer leaves it off',
                 'pip install paddlepaddle==3.2.2 for faster inference on the CPU')


def _probe_all(names: list[str]) -> dict[str, dict]:
    """What the probes found, by name; ``{'error': its last words}`` for one that raised, crashed or hung.

    One child process takes them all, so that Paddle is imported once; after a crash another takes the rest.
    """
    found = {}
    waiting = list(names)
    while waiting:
        output, ending = _run_child(f'from paddleseg_ext.cli.doctor import probe; probe({waiting!r})')
        for line in output.splitlines():
            if line.startswith(_MARK):
                found.update(json.loads(line[len(_MARK):]))
        waiting = [name for name in waiting if name not in found]
        if waiting:
            found[waiting.pop(0)] = {'error': ending}
    return found


def _run_child(code: str) -> tuple[str, str]:
    """What Python printed when it ran the code, and how it ended."""
    folder = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [folder, os.environ.get('PYTHONPATH')]))
    try:
        done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], text=True, capture_output=True,
                              timeout=PROBE_SECONDS, env={**os.environ, 'PYTHONPATH': paths, 'GLOG_minloglevel': '3'})
    except subprocess.TimeoutExpired as stop:
        return (stop.stdout or b'').decode(errors='replace'), f'no answer in {PROBE_SECONDS} s'
    words = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    how = f'killed by signal {-done.returncode}' if done.returncode < 0 else f'ended with exit code {done.returncode}'
    return done.stdout, f'{how}: {words[-1]}' if words else how


def probe(names: list[str]) -> None:
    """Runs in a child process: look at these components and print a marked line of JSON about each."""
    for name in names:
        start = perf_counter()
        try:
            found = _PROBES[name]()
        # NOTE: every exception is caught because whatever a broken installation raises is the answer.
        except Exception as error:
            words = str(error).strip().splitlines() or ['']
            found = {'error': f'{type(error).__name__}: {words[-1]}'}
        print(f'\n{_MARK}' + json.dumps({name: {'seconds': perf_counter() - start, **found}}), flush=True)


def _probe_paddle() -> dict:
    import paddle
    cuda = paddle.version.cuda() if paddle.is_compiled_with_cuda() else ''
    gpus = []
    if cuda:
        gpus = [paddle.device.cuda.get_device_name(index) for index in range(paddle.device.cuda.device_count())]
    return {'version': paddle.__version__, 'cuda': cuda, 'cudnn': paddle.version.cudnn() if cuda else '', 'gpus': gpus}


def _probe_opencv() -> dict:
    import cv2
    return {'version': cv2.__version__}


def _probe_paddleseg() -> dict:
    import paddleseg
    return {'version': paddleseg.__version__}


def _probe_visualdl() -> dict:
    import visualdl
    return {'version': visualdl.__version__}


def _probe_onednn() -> dict:
    """Export a tiny model that interpolates and compare Paddle Inference with and without oneDNN."""
    import tempfile

    import numpy as np
    import paddle
    from paddle import nn
    paddle.seed(1)
    model = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.ReLU(),
                          nn.Upsample(scale_factor=2, mode='bilinear'), nn.Conv2D(8, 4, 1))
    model.eval()
    spec = paddle.static.InputSpec([None, 3, None, None], 'float32', 'x')
    with tempfile.TemporaryDirectory() as folder:
        prefix = os.path.join(folder, 'model')
        paddle.jit.save(paddle.jit.to_static(model, input_spec=[spec], full_graph=True), prefix)
        image = np.random.RandomState(0).rand(1, 3, 16, 24).astype('float32')
        plain, fused = (_infer(prefix, image, onednn) for onednn in (False, True))
    return {'difference': float(np.abs(plain - fused).max())}


def _infer(prefix: str, image, onednn: bool):
    from paddle import inference
    program = next(prefix + ending for ending in ('.json', '.pdmodel') if os.path.exists(prefix + ending))
    config = inference.Config(program, prefix + '.pdiparams')
    config.disable_gpu()
    config.disable_glog_info()
    if program.endswith('.json'):
        config.enable_new_ir(True)
        config.enable_new_executor()
    if onednn:
        config.enable_mkldnn()
    elif hasattr(config, 'disable_mkldnn'):
        config.disable_mkldnn()
    predictor = inference.create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(image)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()


_PROBES = {'paddle': _probe_paddle, 'opencv': _probe_opencv, 'paddleseg': _probe_paddleseg, 'visualdl': _probe_visualdl,
           'onednn': _probe_onednn}


def _as_text(sections: dict[str, list[Check]]) -> str:
    width = max(len(check.topic) for checks in sections.values() for check in checks)
    lines = []
    for title, checks in sections.items():
        lines += ['', title.capitalize()]
        for check in checks:
            status = '' if check.status == 'INFO' else check.status
            lines.append(f'  {status:<4}  {check.topic:<{width}}  {check.text}'.rstrip())
            if check.remedy:
                lines.append(f'  {"":<4}  {"":<{width}}  → {check.remedy}')
    counts = {status: sum(check.status == status for checks in sections.values() for check in checks)
              for status in ('FAIL', 'WARN')}
    if counts['FAIL']:
        verdict = f'{counts["FAIL"]} failed: see the lines marked FAIL.'
    else:
        verdict = 'Ready.' + (f' {counts["WARN"]} warning(s).' if counts['WARN'] else '')
    return '\n'.join([*lines[1:], '', verdict])

"""Paddle Inference: the backend that runs what `paddleseg export` writes, on the CPU or a GPU."""
from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from paddleseg_ext.environment import onednn_inference_works, parse_version
from paddleseg_ext.errors import UserError
from paddleseg_ext.inference.deploy import Deployment

__all__ = ['PRECISIONS', 'PaddleOptions', 'PaddleRunner', 'open_runner']

PRECISIONS = ('fp32', 'fp16', 'bf16')


@dataclass(frozen=True)
class PaddleOptions:
    """How to run a program. The defaults are right for a CPU.

    Attributes:
        device: `cpu`, `gpu` or `gpu:<number>`.
        cpu_threads: threads of the CPU's mathematics library; None takes the cores this process may use.
        onednn: None switches oneDNN on where it works; True insists (an error where it does not); False leaves it off.
        precision: `fp32`; `bf16` (a CPU with bf16 instructions and oneDNN, or a GPU); `fp16` (a GPU).
        use_trt: run what TensorRT can take in TensorRT (needs a Paddle that was built with it, and a GPU).
        min_subgraph_size: smallest group of operators that is given to TensorRT.
        trt_shape_file: shape ranges that an earlier run collected; TensorRT needs them when the size is dynamic.
        collect_shapes: write `trt_shape_file` during this run instead of using TensorRT.
        gpu_memory_mb: memory pool that is taken at the start on a GPU.
    """

    device: str = 'cpu'
    cpu_threads: int | None = None
    onednn: bool | None = None
    precision: str = 'fp32'
    use_trt: bool = False
    min_subgraph_size: int = 3
    trt_shape_file: Path | None = None
    collect_shapes: bool = False
    gpu_memory_mb: int = 256


def open_runner(deployment: Deployment, options: PaddleOptions = PaddleOptions()) -> PaddleRunner:
    """Load an export folder's program, with oneDNN off where its export found that oneDNN computes it wrongly.

    Raises:
        UserError: as PaddleRunner, or oneDNN is insisted on for a program that it computes wrongly.
    """
    if not deployment.onednn and options.device == 'cpu':
        if options.onednn:
            raise UserError(f'--enable_mkldnn True: {deployment.folder} was exported with onednn: false, because '
                            'oneDNN computes this program wrongly. Leave the flag away.')
        options = replace(options, onednn=False)
    return PaddleRunner(deployment.model, deployment.params, options)


class PaddleRunner:
    """A program of Paddle Inference.

    Args:
        model: `model.json` (Paddle 3) or `model.pdmodel` (Paddle 2.6).
        params: `model.pdiparams`.
        options: see PaddleOptions.

    Raises:
        UserError: an option that this machine or this Paddle cannot honour, or files that do not load.
    """

    def __init__(self, model: Path, params: Path, options: PaddleOptions = PaddleOptions()):
        from paddle import inference

        _require_readable(Path(model))
        self._onednn = _decide_onednn(options)
        _check_device(options)
        _check_precision(options, onednn=self._onednn)
        self._options = options
        self._threads = options.cpu_threads or _available_cores()
        config = inference.Config(str(model), str(params))
        self._place(config)
        self._optimise(config, is_pir=Path(model).suffix == '.json')
        config.disable_glog_info()
        try:
            self._predictor = inference.create_predictor(config)
        except (RuntimeError, ValueError, OSError, MemoryError) as problem:
            raise UserError(f'{model}: Paddle Inference cannot load it: {_last_line(problem)} '
                            'Export the model again with the Paddle that is to run it.') from problem
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output_name = self._predictor.get_output_names()[0]

    def _place(self, config) -> None:
        options = self._options
        if options.device == 'cpu':
            config.disable_gpu()
            config.set_cpu_math_library_num_threads(self._threads)
            if not self._onednn:
                config.disable_mkldnn()
                return
            config.enable_mkldnn()
            if options.precision == 'bf16':
                config.enable_mkldnn_bfloat16()
            return
        config.enable_use_gpu(options.gpu_memory_mb, _gpu_number(options.device), _paddle_precision(options.precision))
        if options.use_trt or options.collect_shapes:
            from paddleseg_ext.inference.tensorrt import configure_tensorrt
            configure_tensorrt(config, options, _paddle_precision(options.precision))

    def _optimise(self, config, *, is_pir: bool) -> None:
        if is_pir:
            # NOTE: enable_memory_optim() alone fails with "Not find predictor_id": the three belong together.
            config.enable_new_ir(True)
            config.enable_new_executor()
        config.switch_ir_optim(True)
        # NOTE: shapes are collected on the unchanged program, and memory optimisation would share its tensors.
        if not self._options.collect_shapes:
            config.enable_memory_optim()

    @property
    def description(self) -> str:
        import paddle

        options = self._options
        if options.device == 'cpu':
            where = f'cpu, {self._threads} thread{"s" * (self._threads > 1)}, oneDNN {"on" if self._onednn else "off"}'
        else:
            where = options.device + (', TensorRT' if options.use_trt else '')
        return f'Paddle Inference {paddle.__version__}, {where}, {options.precision}'

    def run(self, images: np.ndarray) -> np.ndarray:
        if self._predictor is None:
            raise ValueError('This runner is closed: make a new PaddleRunner.')
        self._input.copy_from_cpu(np.ascontiguousarray(images, dtype=np.float32))
        self._predictor.run()
        # NOTE: the handle is asked for anew because some Paddle releases replace the output tensor in every run.
        return self._predictor.get_output_handle(self._output_name).copy_to_cpu()

    def close(self) -> None:
        self._predictor = self._input = None


def _require_readable(model: Path) -> None:
    import paddle

    if model.suffix == '.json' and (0, 0, 0) < parse_version(paddle.__version__) < (3, 0, 0):
        raise UserError(f'{model}: is a program of Paddle 3, and this is Paddle {paddle.__version__}. Run it '
                        'with Paddle 3, or export the model again with this Paddle.')


def _available_cores() -> int:
    # NOTE: only Linux tells which cores this process may use; a container often has fewer than the machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _decide_onednn(options: PaddleOptions) -> bool:
    """Whether oneDNN will be on.

    Raises:
        UserError: it was asked for and cannot be.
    """
    import paddle

    if options.device != 'cpu':
        if options.onednn:
            raise UserError(f'--enable_mkldnn True: oneDNN runs on the CPU only, and the device is {options.device}. '
                            'Leave the flag away, or pass --device cpu.')
        return False
    fault = None
    if not onednn_inference_works(paddle.__version__):
        fault = 'it fails on every interpolate (Paddle issue 77340)'
    elif not paddle.base.core.is_compiled_with_mkldnn():
        fault = 'it was built without oneDNN'
    if fault is None:
        return options.onednn is not False
    if options.onednn:
        raise UserError(f'--enable_mkldnn True: oneDNN cannot be used with Paddle {paddle.__version__}: {fault}. '
                        'Leave the flag away (slower), or install paddlepaddle==3.2.2.')
    return False


def _gpu_number(device: str) -> int:
    number = device.partition(':')[2] or '0'
    if not number.isdigit():
        raise UserError(f'--device {device}: the number of a GPU is expected after the colon, as in gpu:0.')
    return int(number)


def _check_device(options: PaddleOptions) -> None:
    import paddle

    kind = options.device.partition(':')[0]
    if kind not in ('cpu', 'gpu') or options.device.startswith('cpu:'):
        raise UserError(f'--device {options.device}: expected cpu, gpu or gpu:<number>.')
    if kind == 'gpu' and not paddle.is_compiled_with_cuda():
        raise UserError(f'--device {options.device}: this Paddle ({paddle.__version__}) has no GPU support. '
                        'Install paddlepaddle-gpu in place of paddlepaddle, or pass --device cpu.')
    if kind == 'gpu' and _gpu_number(options.device) >= paddle.device.cuda.device_count():
        raise UserError(f'--device {options.device}: this machine shows Paddle '
                        f'{paddle.device.cuda.device_count()} GPUs, numbered from 0.')
    if options.cpu_threads is not None and options.cpu_threads < 1:
        raise UserError(f'--cpu_threads {options.cpu_threads}: at least 1 is needed.')
    if options.use_trt or options.collect_shapes:
        from paddleseg_ext.inference.tensorrt import require_tensorrt
        require_tensorrt(options)


def _check_precision(options: PaddleOptions, *, onednn: bool) -> None:
    import paddle

    if options.precision not in PRECISIONS:
        raise UserError(f'--precision {options.precision}: expected one of {", ".join(PRECISIONS)}.')
    if options.device != 'cpu' or options.precision == 'fp32':
        return
    if options.precision == 'fp16':
        raise UserError('--precision fp16 on the CPU: Paddle Inference has no fp16 kernels there. '
                        'Pass fp32, or bf16 where the CPU has it.')
    if not onednn:
        raise UserError('--precision bf16 on the CPU runs in oneDNN, which is off. Pass fp32, or switch oneDNN on.')
    if not paddle.base.core.supports_bfloat16_fast_performance():
        raise UserError('--precision bf16: this CPU has no bf16 instructions (avx512_bf16 or amx_bf16), so it would be '
                        'slower than fp32. Pass fp32.')


def _paddle_precision(precision: str):
    from paddle.inference import PrecisionType

    return {'fp32': PrecisionType.Float32, 'fp16': PrecisionType.Half, 'bf16': PrecisionType.Bfloat16}[precision]


def _last_line(problem: BaseException) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return next((line for line in lines if 'Error' in line or line.startswith('(')), lines[-1] if lines else '?')

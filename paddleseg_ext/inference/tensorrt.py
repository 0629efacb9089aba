"""TensorRT inside Paddle Inference: refused with a message where it cannot be, configured where it can."""
from __future__ import annotations

from paddleseg_ext.errors import UserError

__all__ = ['configure_tensorrt', 'require_tensorrt']

_WORKSPACE_BYTES = 1 << 30


def require_tensorrt(options) -> None:
    """Check that these PaddleOptions can use TensorRT.

    Raises:
        UserError: the device is the CPU, or Paddle was built without TensorRT.
    """
    import paddle
    from paddle.inference import get_trt_compile_version

    flag = '--use_trt' if options.use_trt else '--enable_auto_tune'
    if options.device == 'cpu':
        raise UserError(f'{flag}: TensorRT runs on a GPU, and the device is cpu. Pass --device gpu or leave it away.')
    if tuple(get_trt_compile_version()) == (0, 0, 0):
        raise UserError(f'{flag}: this Paddle ({paddle.__version__}) was built without TensorRT. Install a '
                        'paddlepaddle-gpu wheel that has it, or leave the flag away.')
    if options.min_subgraph_size < 1:
        raise UserError(f'--min_subgraph_size {options.min_subgraph_size}: at least 1 operator is needed.')


def configure_tensorrt(config, options, precision) -> None:
    """Fill Paddle's `config` for TensorRT, or for collecting the shapes that it needs.

    Raises:
        UserError: the file of shape ranges is needed and not there.
    """
    shape_file = options.trt_shape_file
    if options.collect_shapes:
        if shape_file is None:
            raise UserError('--enable_auto_tune: --auto_tuned_shape_file must say where to write the shapes.')
        config.collect_shape_range_info(str(shape_file))
        return
    config.enable_tensorrt_engine(workspace_size=_WORKSPACE_BYTES, max_batch_size=1,
                                  min_subgraph_size=options.min_subgraph_size, precision_mode=precision,
                                  use_static=False, use_calib_mode=False)
    if shape_file is None:
        return
    if not shape_file.is_file():
        raise UserError(f'--auto_tuned_shape_file {shape_file}: there is no such file. Collect the shapes first: the '
                        'same command with --enable_auto_tune, without --use_trt.')
    allow_build_at_runtime = True
    config.enable_tuned_tensorrt_dynamic_shape(str(shape_file), allow_build_at_runtime)

"""Our classifiers: in dygraph, exported, and converted, on the weights and images that timm's side wrote."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

__all__ = ['convert', 'dygraph_step', 'export', 'onnxruntime_step', 'openvino_step', 'program_step', 'training_step']

OPSET = 17


def _classifier(name: str, folder: Path):
    from paddleseg_ext import create_classifier

    arguments = {'lsa_padding': 'zero'} if name.startswith('Twins') else {}
    return create_classifier(name, pretrained=str(folder / 'weights.safetensors'), **arguments)


def dygraph_step(name: str, folder: Path) -> Callable[[], np.ndarray]:
    import paddle

    model = _classifier(name, folder)
    model.eval()
    image = paddle.to_tensor(np.load(folder / 'image.npy'))

    def step() -> np.ndarray:
        with paddle.no_grad():
            return model(image).numpy()

    return step


def training_step(name: str, folder: Path) -> Callable[[], float]:
    import paddle

    model = _classifier(name, folder)
    model.train()
    images, labels = (paddle.to_tensor(np.load(folder / f'{kind}.npy')) for kind in ('images', 'labels'))
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters(), weight_decay=0.01)

    def step() -> float:
        loss = paddle.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return float(loss)

    return step


def export(name: str, folder: Path) -> None:
    """Write the program `model.*` for any batch and size, as `paddleseg export` does."""
    import paddle

    from paddleseg_ext.export.program import save_program

    class InList(paddle.nn.Layer):
        """A classifier that answers as a segmentor does."""

        def __init__(self, classifier: paddle.nn.Layer):
            super().__init__()
            self.classifier = classifier

        def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
            return [self.classifier(x)]

    save_program(InList(_classifier(name, folder)), folder / 'model', output_op='none', input_shape=[-1, 3, -1, -1])


def convert(folder: Path) -> None:
    """Write `model.onnx`."""
    import paddle2onnx

    paddle2onnx.export(str(_program(folder)), str(folder / 'model.pdiparams'), str(folder / 'model.onnx'),
                       opset_version=OPSET, optimize_tool='None')


def _program(folder: Path) -> Path:
    return next(path for path in (folder / 'model.json', folder / 'model.pdmodel') if path.is_file())


def program_step(folder: Path, *, threads: int) -> Callable[[], np.ndarray]:
    from paddleseg_ext.inference.paddle_runner import PaddleOptions, PaddleRunner

    runner = PaddleRunner(_program(folder), folder / 'model.pdiparams', PaddleOptions(cpu_threads=threads, onednn=True))
    image = np.load(folder / 'image.npy')
    return lambda: runner.run(image)


def onnxruntime_step(folder: Path, *, threads: int) -> Callable[[], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(folder / 'model.onnx'), options, providers=['CPUExecutionProvider'])
    inputs = {session.get_inputs()[0].name: np.load(folder / 'image.npy')}
    return lambda: session.run(None, inputs)[0]


def openvino_step(folder: Path, *, threads: int) -> Callable[[], np.ndarray]:
    import openvino

    core = openvino.Core()
    # NOTE: the precision is asked for because OpenVINO takes bf16 by itself where the CPU has it.
    settings = {'INFERENCE_NUM_THREADS': threads, 'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY'}
    request = core.compile_model(str(folder / 'model.onnx'), 'CPU', settings).create_infer_request()
    image = np.load(folder / 'image.npy')
    return lambda: next(iter(request.infer([image]).values()))

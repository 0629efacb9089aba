"""Models of PaddleSeg 2.8.0 that Paddle 3 breaks, and the ViT backbones that cannot be built without weights.

Shapes: N images, C channels, H×W pixels, P points.
"""
from __future__ import annotations

import paddle
import paddle.nn.functional as F

from paddleseg_ext.compat.faults import Fault

__all__ = ['FAULTS']


def _flow_warp(before):
    """Sample a map where the flow points: input [N, C, h, w], flow [N, 2, H, W] in pixels, size int [2] = (H, W)."""

    def flow_warp(self, input, flow, size):
        rows, columns = paddle.linspace(-1.0, 1.0, size[0]), paddle.linspace(-1.0, 1.0, size[1])
        y, x = paddle.meshgrid(rows, columns)
        step = flow.transpose([0, 2, 3, 1]) / size[::-1].astype(flow.dtype)
        return F.grid_sample(input, paddle.stack([x, y], axis=-1) + step)

    return flow_warp


def _uncertain_points(before):
    """The most uncertain cells of the map [N, C, H, W]: their indices [N, P], and centres [N, P, 2], (x, y) in 0…1."""

    def get_points_test(self, seg_logits, uncertainty_func):
        uncertainty = uncertainty_func(seg_logits)
        height, width = paddle.shape(uncertainty)[2:].astype('int64')
        limit = self.subdivision_num_points.astype('int64').reshape([])
        indices = paddle.topk(uncertainty.flatten(1), paddle.minimum(height * width, limit), axis=1)[1]
        x = ((indices % width).astype('float32') + 0.5) / width.astype('float32')
        y = ((indices // width).astype('float32') + 0.5) / height.astype('float32')
        return indices, paddle.stack([x, y], axis=-1)

    return get_points_test


def _optional_weights(before):
    def init_weight(self):
        if self.pretrained is not None:
            before(self)

    return init_weight


_WARP = 'float flow / integer size raises a type promotion error in every forward'
FAULTS = (
    Fault('paddleseg.models.sfnet:AlignedModule.flow_warp', _WARP, _flow_warp),
    Fault('paddleseg.models.decoupled_segnet:SqueezeBodyEdge.flow_warp', _WARP, _flow_warp),
    Fault('paddleseg.models.pointrend:PointHead.get_points_test',
          'concat of 0-d and 1-d tensors (and, on Paddle 3, of int64 and int32) raises in every evaluation',
          _uncertain_points, since=(0, 0)),
    Fault('paddleseg.models.backbones.vision_transformer:VisionTransformer.init_weight',
          'without pretrained weights the constructor looks for a file named None and raises',
          _optional_weights, since=(0, 0)),
)

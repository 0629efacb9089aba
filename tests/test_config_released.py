"""No false alarms: configurations in the style of PaddleSeg's released ones pass the check, each also through bases."""
import pytest
import yaml

from paddleseg_ext.config import check_config, json_schema, load_config, shipped_configs

jsonschema = pytest.importorskip('jsonschema')

CITYSCAPES = '''
batch_size: 2
iters: 80000
train_dataset:
  type: Cityscapes
  dataset_root: data/cityscapes
  mode: train
  transforms:
    - {type: ResizeStepScaling, min_scale_factor: 0.5, max_scale_factor: 2.0, scale_step_size: 0.25}
    - {type: RandomPaddingCrop, crop_size: [1024, 512]}
    - type: RandomHorizontalFlip
    - {type: RandomDistort, brightness_range: 0.4, contrast_range: 0.4, saturation_range: 0.4}
    - type: Normalize
val_dataset:
  type: Cityscapes
  dataset_root: data/cityscapes
  mode: val
  transforms:
    - type: Normalize
optimizer: {type: sgd, momentum: 0.9, weight_decay: 4.0e-5}
lr_scheduler: {type: PolynomialDecay, learning_rate: 0.01, end_lr: 0, power: 0.9}
loss:
  types:
    - type: CrossEntropyLoss
  coef: [1]
'''

OWN_DATA = '''
batch_size: 4
iters: 1000
train_dataset:
  type: Dataset
  dataset_root: data/optic
  train_path: data/optic/train.txt
  num_classes: 2
  mode: train
  transforms:
    - {type: Resize, target_size: [512, 512]}
    - type: RandomHorizontalFlip
    - {type: Normalize, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
val_dataset:
  type: Dataset
  dataset_root: data/optic
  val_path: data/optic/val.txt
  num_classes: 2
  mode: val
  transforms:
    - {type: Resize, target_size: [512, 512], keep_ratio: true, size_divisor: 32, interp: LINEAR}
    - type: Normalize
optimizer: {type: SGD, momentum: 0.9, weight_decay: 0.0005}
lr_scheduler: {type: PolynomialDecay, learning_rate: 0.01, end_lr: 0, power: 0.9}
loss:
  types:
    - type: CrossEntropyLoss
  coef: [1]
'''

# What each configuration adds to its base: name -> (base, its own lines).
RELEASED = {
    'pp_liteseg_stdc1': (CITYSCAPES, '''
model:
  type: PPLiteSeg
  num_classes: 19
  backbone: {type: STDC1, pretrained: 'https://example.com/PP_STDCNet1.tar.gz'}
  arm_out_chs: [32, 64, 128]
  seg_head_inter_chs: [32, 64, 64]
optimizer: {weight_decay: 5.0e-4}
lr_scheduler: {learning_rate: 0.005, warmup_iters: 1000, warmup_start_lr: 1.0e-5}
loss:
  types:
    - {type: OhemCrossEntropyLoss, min_kept: 260000}
    - {type: OhemCrossEntropyLoss, min_kept: 260000}
    - {type: OhemCrossEntropyLoss, min_kept: 260000}
  coef: [1, 1, 1]
test_config: {aug_eval: true, scales: 0.5}
'''),
    'ddrnet23': (CITYSCAPES, '''
batch_size: 3
model: {type: DDRNet_23, enable_auxiliary_loss: False, pretrained: 'https://example.com/model.pdparams'}
optimizer: {_inherited_: False, type: SGD, weight_decay: 0.0005}
loss: {types: [{type: OhemCrossEntropyLoss}], coef: [1]}
'''),
    'stdc2_seg': (CITYSCAPES, '''
model:
  type: STDCSeg
  num_classes: 19
  backbone: {type: STDC2, pretrained: null}
  pretrained: Null
loss:
  types: [{type: OhemCrossEntropyLoss}, {type: OhemCrossEntropyLoss}, {type: OhemCrossEntropyLoss},
          {type: DetailAggregateLoss}]
  coef: [1, 1, 1, 1]
'''),
    'bisenetv2': (CITYSCAPES, '''
model: {type: BiSeNetV2, num_classes: 19}
loss: {types: [{type: CrossEntropyLoss}], coef: [1, 1, 1, 1, 1]}
lr_scheduler: {learning_rate: 0.05}
'''),
    'segformer_b0': (CITYSCAPES, '''
model:
  type: SegFormer
  num_classes: 19
  embedding_dim: 256
  backbone: {type: MixVisionTransformer_B0, pretrained: 'https://example.com/mix_vision_transformer_b0.tar.gz'}
optimizer:
  _inherited_: False
  type: AdamW
  beta1: 0.9
  beta2: 0.999
  weight_decay: 0.01
lr_scheduler:
  type: PolynomialDecay
  learning_rate: 0.00006
  power: 1
  warmup_iters: 1500
  warmup_start_lr: 1e-6
test_config: {is_slide: True, crop_size: [1024, 1024], stride: [768, 768]}
'''),
    'ocrnet_hrnetw18': (CITYSCAPES, '''
model:
  type: OCRNet
  backbone: {type: HRNet_W18, pretrained: 'https://example.com/hrnet_w18_ssld.tar.gz'}
  num_classes: 19
  backbone_indices: [0]
loss: {types: [{type: CrossEntropyLoss}], coef: [1, 0.4]}
'''),
    'deeplabv3p_resnet50': (CITYSCAPES, '''
model:
  type: DeepLabV3P
  backbone: {type: ResNet50_vd, output_stride: 8, multi_grid: [1, 2, 4], pretrained: null}
  num_classes: 19
  backbone_indices: [0, 3]
  aspp_ratios: [1, 12, 24, 36]
  aspp_out_channels: 256
  align_corners: False
  pretrained: null
loss:
  types:
    - type: MixedLoss
      losses: [{type: CrossEntropyLoss}, {type: LovaszSoftmaxLoss}]
      coef: [0.8, 0.2]
  coef: [1]
'''),
    'upernet_resnet101': (CITYSCAPES, '''
model:
  type: UPerNet
  num_classes: 19
  backbone: {type: ResNet101_vd, output_stride: 8}
  backbone_indices: [0, 1, 2, 3]
  channels: 512
  dropout_prob: 0.1
  enable_auxiliary_loss: True
loss: {types: [{type: CrossEntropyLoss}], coef: [1, 0.4]}
'''),
    'unet': (OWN_DATA, '''
model: {type: UNet, num_classes: 2, use_deconv: False, pretrained: Null}
loss: {types: [{type: CrossEntropyLoss, weight: [0.2, 0.8]}], coef: [1]}
'''),
    'fastscnn': (OWN_DATA, '''
model: {type: FastSCNN, num_classes: 2, enable_auxiliary_loss: False}
optimizer:
  grad_clip_cfg: {name: ClipGradByValue, max: 1.0}
  custom_cfg: [{name: backbone, lr_mult: 0.1}, {name: norm, weight_decay_mult: 0}]
export: {transforms: [{type: Resize, target_size: [512, 512]}, {type: Normalize}]}
'''),
    'rtformer_slim_ade20k': (CITYSCAPES, '''
train_dataset: {type: ADE20K, dataset_root: data/ADEChallengeData2016}
val_dataset:
  type: ADE20K
  dataset_root: data/ADEChallengeData2016
  transforms:
    - {type: Resize, target_size: [2048, 512], keep_ratio: True, size_divisor: 32}
    - {type: Normalize, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
optimizer: {_inherited_: False, type: AdamW, beta1: 0.9, beta2: 0.999, weight_decay: 0.05}
lr_scheduler: {_inherited_: False, type: PolynomialDecay, learning_rate: 1.0e-4, power: 1., end_lr: 1.0e-7,
               warmup_iters: 1500, warmup_start_lr: 1.0e-6}
loss: {types: [{type: CrossEntropyLoss}], coef: [1, 0.4]}
model: {type: RTFormer, base_channels: 32, head_channels: 64, drop_path_rate: 0.1, cross_size: 8,
        use_injection: [True, False]}
'''),
    'decoupled_segnet': (CITYSCAPES, '''
model:
  type: DecoupledSegNet
  num_classes: 19
  backbone: {type: ResNet50_vd, output_stride: 8}
train_dataset: {edge: True}
loss:
  types: [{type: OhemCrossEntropyLoss}, {type: RelaxBoundaryLoss},
          {type: BCELoss, weight: dynamic, edge_label: True}, {type: OhemEdgeAttentionLoss}]
  coef: [1, 1, 25, 1]
'''),
    'knet': (CITYSCAPES, '''
model:
  type: KNet
  num_classes: 19
  backbone: {type: ResNet50_vd, output_stride: 8}
  backbone_indices: [0, 1, 2, 3]
  kernel_update_head_params: {num_classes: 19, num_heads: 8, dropout: 0.0, with_ffn: True}
  kernel_generate_head_params: {head_layer: FCNKernelHead, num_classes: 19}
  num_stages: 3
lr_scheduler: {_inherited_: False, type: MultiStepDecay, milestones: [60000, 72000], warmup_iters: 1000,
               warmup_start_lr: 1.0e-5, learning_rate: 0.0001}
optimizer: {_inherited_: False, type: AdamW, weight_decay: 0.0005, grad_clip_cfg: {name: ClipGradByNorm, clip_norm: 1}}
loss: {types: [{type: CrossEntropyLoss}], coef: [1, 1, 1, 1]}
'''),
    'maskformer': (CITYSCAPES, '''
model:
  type: MaskFormer
  num_classes: 19
  backbone: {type: SwinTransformer_tiny_patch4_window7_224_maskformer}
train_dataset:
  transforms:
    - {type: ResizeByShort, short_size: [256, 307, 358], max_size: 2048}
    - {type: RandomPaddingCrop, crop_size: [512, 512], im_padding_value: [0, 0, 0], category_max_ratio: 0.75}
    - {type: GenerateInstanceTargets, num_classes: 19, ignore_index: 255}
    - type: Normalize
loss: {types: [{type: MaskFormerLoss, num_classes: 19, eos_coef: 0.1, losses: [labels, masks]}], coef: [1]}
'''),
    'setr_mla': (CITYSCAPES, '''
model:
  type: SegmentationTransformer
  num_classes: 19
  backbone: {type: ViT_large_patch16_384, pretrained: null}
  backbone_indices: [5, 11, 17, 23]
  head: mla
  align_corners: True
  mlahead_channels: 128
loss: {types: [{type: CrossEntropyLoss}], coef: [1, 0.4, 0.4, 0.4, 0.4]}
'''),
    'segnext': (CITYSCAPES, '''
model:
  type: SegNeXt
  num_classes: 19
  backbone: {type: MSCAN_B}
  decoder_cfg: {channels: 256, ham_channels: 256, ham_kwargs: {MD_R: 16}, dropout_rate: 0.1, align_corners: False}
'''),
    'vit_upernet_cae': (CITYSCAPES, '''
model:
  type: UPerNetCAE
  num_classes: 19
  backbone: {type: CAE, img_size: 512, mlp_ratio: 4, qkv_bias: True, init_values: 0.1, drop_path_rate: 0.1}
  backbone_indices: [3, 5, 7, 11]
  channels: 768
  fpn_channels: 768
  head_channels: 768
  channels_fpn: [768, 768, 768, 768]
optimizer: {_inherited_: False, type: AdamWDL_CAE, weight_decay: 0.0, layerwise_decay: 0.65}
loss: {types: [{type: CrossEntropyLoss}], coef: [1, 0.4]}
'''),
}


@pytest.fixture(scope='module')
def validator():
    return jsonschema.Draft7Validator(json_schema())


@pytest.mark.parametrize('name', RELEASED)
def test_no_false_alarms(name, tmp_path, validator):
    base, own = RELEASED[name]
    (tmp_path / 'base.yml').write_text(base)
    (tmp_path / f'{name}.yml').write_text(f'_base_: base.yml\n{own}')
    config = load_config(tmp_path / f'{name}.yml')
    assert [str(problem) for problem in check_config(config, paths=False)] == []
    for text in (base, f'_base_: base.yml\n{own}'):
        errors = [f'{list(error.absolute_path)}: {error.message}'
                  for error in validator.iter_errors(yaml.safe_load(text.replace('1e-6', '0.000001')))]
        assert errors == []


LEAVES = [name for name, path in shipped_configs().items() if path.parent.name != '_base_' and name[0] != '_']


@pytest.mark.parametrize('name', LEAVES)
def test_shipped_configurations_have_no_problems(name):
    assert [str(problem) for problem in check_config(load_config(name), paths=False)] == []

"""Batched image augmentation in one launch: uint8 images of any size in, finished network input out."""

from augment_gpu import data
from augment_gpu.data.loader import Loader
from augment_gpu.decode import DecodeError
from augment_gpu.integrations.torchvision import from_torchvision
from augment_gpu.ops.blur import GaussianBlurParams, gaussian_blur, gaussian_blur_reference, sample_gaussian_blur
from augment_gpu.ops.boxes import (
    CropParams,
    center_crop_boxes,
    sample_random_resized_crop,
    sample_scale_jitter_crop,
)
from augment_gpu.ops.color import ColorJitterParams, color_jitter, color_jitter_reference, sample_color_jitter
from augment_gpu.ops.crop import crop_resize_flip, crop_resize_flip_reference
from augment_gpu.ops.cutout import CutoutParams, cutout, cutout_reference, sample_cutout, sample_random_erasing
from augment_gpu.ops.mix import (
    CutmixParams,
    MixupParams,
    cutmix,
    cutmix_reference,
    mix_targets,
    mix_targets_reference,
    mixup,
    mixup_reference,
    one_hot,
    sample_cutmix,
    sample_mixup,
)
from augment_gpu.ops.views import multi_scale_ten_crop, ten_crop, ten_crop_boxes
from augment_gpu.ragged import RaggedBatch, collate
from augment_gpu.recipe import Recipe
from augment_gpu.rng import Key, uniform
from augment_gpu.stage import Stage, replay
from augment_gpu.tta import TTA

__version__ = "0.1.0"

__all__ = [
    "TTA",
    "ColorJitterParams",
    "CropParams",
    "CutmixParams",
    "CutoutParams",
    "DecodeError",
    "GaussianBlurParams",
    "Key",
    "Loader",
    "MixupParams",
    "RaggedBatch",
    "Recipe",
    "Stage",
    "center_crop_boxes",
    "collate",
    "color_jitter",
    "color_jitter_reference",
    "crop_resize_flip",
    "crop_resize_flip_reference",
    "cutmix",
    "cutmix_reference",
    "cutout",
    "cutout_reference",
    "data",
    "from_torchvision",
    "gaussian_blur",
    "gaussian_blur_reference",
    "mix_targets",
    "mix_targets_reference",
    "mixup",
    "mixup_reference",
    "multi_scale_ten_crop",
    "one_hot",
    "replay",
    "sample_color_jitter",
    "sample_cutmix",
    "sample_cutout",
    "sample_gaussian_blur",
    "sample_mixup",
    "sample_random_erasing",
    "sample_random_resized_crop",
    "sample_scale_jitter_crop",
    "ten_crop",
    "ten_crop_boxes",
    "uniform",
]

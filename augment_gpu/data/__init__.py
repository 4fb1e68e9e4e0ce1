"""Where pictures come from, and how they reach the device."""

from augment_gpu.data.loader import Loader
from augment_gpu.data.sample import sample_dataset
from augment_gpu.data.sources import Dataset, ImageFolder, Subset, stratified_split, subset

__all__ = ["Dataset", "ImageFolder", "Loader", "Subset", "sample_dataset", "stratified_split", "subset"]

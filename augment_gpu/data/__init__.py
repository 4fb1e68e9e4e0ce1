"""Where pictures come from, and how they reach the device."""

from augment_gpu.data.in_memory import InMemory
from augment_gpu.data.loader import Loader
from augment_gpu.data.sample import sample_dataset
from augment_gpu.data.sources import Dataset, ImageFolder, Subset, stratified_split, subset

__all__ = ["Dataset", "ImageFolder", "InMemory", "Loader", "Subset", "sample_dataset", "stratified_split", "subset"]

"""What this machine has, and which path each op takes on it."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from augment_gpu.ops.path import why_not_triton

_PACKAGES = ("augment_gpu", "torch", "torchvision", "triton", "kornia", "timm", "numpy", "pillow")


def info() -> str:
    """A page of text: versions, devices, paths."""
    lines = [f"python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    lines += [f"{package:12} {installed_version(package)}" for package in _PACKAGES]
    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]
    for device in devices:
        lines += ["", f"{device}: {_name(device)}"]
        missing = why_not_triton(device)
        triton = missing is None
        paths = {
            "crop_resize_flip": "Triton kernel" if triton else "plain torch, its uint8 kernels where they apply",
            "cutout": "Triton kernel" if triton else "plain torch",
            "mixup, cutmix": "Triton kernels" if triton else "plain torch",
            "color_jitter, gaussian_blur": "Kornia",
        }
        lines += [f"  {op:28} {path}" for op, path in paths.items()]
        if missing is not None and device.type == "cuda":
            lines.append(f"  why no Triton kernel: {missing}")
    return "\n".join(lines)


def installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, sm_{properties.major}{properties.minor}"
    return f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"

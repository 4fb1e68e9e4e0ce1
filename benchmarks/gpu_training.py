"""A training step of a timm model, alone and with the train stage in front of it."""

from collections.abc import Callable, Generator
from typing import Any

import timm
import torch
from common import spread
from gpu_ops import CLASSES, Plan, output_dtypes, random_batch, train_recipe
from gpu_timing import Calls, measure
from torch import nn

import augment_gpu as ag


def training(plan: Plan, device: torch.device) -> Generator[dict[str, Any], None, None]:
    """One row: the step (forward, backward, SGD with momentum, in bfloat16 autocast and channels_last) on tensors that
    lie ready, then on ragged bytes on the device, augmented anew in each step; slowdown is the ratio within each round,
    less one. The batch is halved until it fits.

    Both steps have soft targets, so the loss costs the same. peak_bytes: of all tensors at once, the model's and the
    data's included; None on a CPU.
    """
    _, missing = output_dtypes(device)
    if missing:
        yield {"model": plan.model, "left_out": f"this GPU has no {missing[0]}"}
        return
    batch = plan.model_batch
    while True:
        try:
            yield _row(plan, device, batch)
            return
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
        torch.cuda.empty_cache()


def _row(plan: Plan, device: torch.device, batch: int) -> dict[str, Any]:
    step = train_step(plan.model, device)
    size = plan.model_size
    images = torch.randn(batch, 3, size, size, device=device, dtype=torch.bfloat16)
    images = images.to(memory_format=torch.channels_last)
    targets = torch.rand(batch, CLASSES, device=device).softmax(1)
    alone: Calls = [lambda: step(images, targets)]
    peak_alone = _peak(alone, device)
    width, height = plan.sources[0]
    batches = [random_batch(batch, width, height, device) for _ in range(2)]
    labels = torch.randint(0, CLASSES, (batch,)).to(device)
    stage = ag.Stage(train_recipe(size, torch.bfloat16)).to(device)
    staged: Calls = [lambda ragged=ragged: step(*stage(ragged, labels)) for ragged in batches]
    peak_staged = _peak(staged, device)
    budget, rounds = 40 * plan.budget, plan.rounds
    seconds = measure({"alone": alone, "with stage": staged}, device, budget=budget, rounds=rounds)
    pairs = zip(seconds["with stage"], seconds["alone"], strict=True)
    return {
        "model": plan.model,
        "batch": batch,
        "size": size,
        "source": f"{width}x{height}",
        "step_seconds": {name: spread(values) for name, values in seconds.items()},
        "slowdown_percent": spread([100 * (staged / alone - 1) for staged, alone in pairs]),
        "peak_bytes": {"alone": peak_alone, "with stage": peak_staged},
    }


def train_step(name: str, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """A step of a randomly initialised model: images (B, 3, S, S), targets (B, CLASSES); nothing waits for the device.

    cuDNN chooses its algorithms by trial, as any training on images of one size has it.
    """
    torch.backends.cudnn.benchmark = True
    model = timm.create_model(name, num_classes=CLASSES).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step(images: torch.Tensor, targets: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _peak(calls: Calls, device: torch.device) -> int | None:
    """Most bytes that tensors took at once while each call ran; the first ones, in which cuDNN tries, do not count."""
    if device.type != "cuda":
        return None
    for call in calls:
        call()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    for call in calls:
        call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)

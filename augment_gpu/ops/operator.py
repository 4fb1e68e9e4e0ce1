"""The device parts of ops as torch operators.

An op has a host part, which checks its arguments and turns draws into tables, and a device part, which takes tensors
alone and never waits for the device. As an operator of torch's library the device part is one opaque call to
torch.compile, and nothing in it depends on a draw: it can be captured in a CUDA graph and replayed with other tables.
"""

from collections.abc import Callable
from typing import Any

import torch


def device_op(schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as torch.ops.augment_gpu.<name>, for every device, and gives the operator in its place.

    schema: as torch.library.define has it, the name first. fake: gives the results' shapes without computing them.
    """

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        name = schema[: schema.index("(")]
        qualified = f"augment_gpu::{name}"
        torch.library.define(qualified, schema.removeprefix(name))
        # Gradients are not offered: an op's inputs are data. What is differentiable says so, and goes by plain torch.
        torch.library.impl(qualified, "CompositeExplicitAutograd")(run)
        torch.library.register_fake(qualified)(fake)
        operator: Callable[..., Any] = getattr(torch.ops.augment_gpu, name).default
        return operator

    return register


def wants_gradient(values: torch.Tensor) -> bool:
    """Whether autograd follows these values: then plain torch serves, since an operator passes no gradient on."""
    return values.requires_grad and torch.is_grad_enabled()


def written(values: torch.Tensor) -> None:
    """Tells autograd that an operator wrote to these values, which torch's own writes do by themselves: what was saved
    of them is no longer true."""
    if not values.is_inference():
        torch.autograd.graph.increment_version(values)


def writes_in_place(*arguments: Any) -> None:
    """The fake of an operator that returns nothing."""

"""From batches to weights: parts of a step, clipping, averages, class weights, and a loss that is no number."""

import copy
import math

import pytest
import timm
import torch
from torch.nn import functional as F

from augment_gpu.transfer.config import TrainConfig
from augment_gpu.transfer.distributed import Ranks
from augment_gpu.transfer.plan import TransferPlan
from augment_gpu.transfer.updates import DivergedError, Updates, balanced_weights

pytestmark = pytest.mark.usefixtures("threads")
SGD = {"optimizer": "sgd", "weight_decay": 0.0}


def updates_of(model: torch.nn.Module, *, lr: float = 0.1, weights: torch.Tensor | None = None, **settings) -> Updates:
    plan = TransferPlan(strategy="scratch", lr=lr, backbone_lr=lr)
    return Updates(
        model,
        plan,
        TrainConfig(**settings),
        lambda step: 1.0,
        device=torch.device("cpu"),
        ranks=Ranks(),
        class_weights=weights,
    )


def small(seed: int = 0) -> torch.nn.Module:
    """Without batch normalisation, by which the images of a batch would know of each other."""
    torch.manual_seed(seed)
    return timm.create_model("test_vit2", num_classes=3, img_size=32)


def batch(count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(count, 3, 32, 32), torch.randint(0, 3, (count,))


def distance(one: torch.nn.Module, other: torch.nn.Module) -> float:
    return max(
        (a - b).abs().max().item() for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_a_step_in_parts_is_the_same_step() -> None:
    """Also in parts of different sizes, of which one is empty: the mean is one over all images."""
    images, targets = batch(7)
    whole, parts = updates_of(small(), **SGD), updates_of(small(), **SGD)
    one = whole.step([(images, targets)])
    many = parts.step([(images[:4], targets[:4]), (images[4:4], targets[4:4]), (images[4:], targets[4:])])
    assert torch.allclose(one, many)
    assert distance(whole.model, parts.model) < 1e-6
    assert distance(whole.model, small()) > 1e-4


def test_the_returned_loss_is_the_sum_over_the_images() -> None:
    images, targets = batch(5)
    model = small()
    expected = F.cross_entropy(model(images), targets, reduction="sum")
    assert updates_of(model, **SGD).step([(images, targets)]).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_gradient_is_clipped_to_its_norm() -> None:
    images, targets = batch(4)
    before = small()
    clipped = updates_of(small(), **{**SGD, "clip": 0.01})
    clipped.step([(images, targets)])
    moved = sum(
        (a - b).square().sum().item() for a, b in zip(before.parameters(), clipped.model.parameters(), strict=True)
    )
    # Nesterov's momentum goes 1.9 times the gradient in its first step.
    assert math.sqrt(moved) == pytest.approx(0.1 * 1.9 * 0.01, rel=1e-3)


def test_no_image_is_no_step() -> None:
    images, targets = batch(3)
    updates = updates_of(small())
    assert updates.step([(images[:0], targets[:0])]).item() == 0
    assert updates.steps == 0
    assert distance(updates.model, small()) == 0


def test_the_average_follows_the_weights_at_its_decay() -> None:
    """timm's warm-up: decay min(0.9, 1 − (1 + n)^(−2/3)) at the step after n others, and 0 at the first."""
    updates = updates_of(small(), **{**SGD, "ema": 0.9})
    expected = None
    for number in range(3):
        updates.step([batch(4, number)])
        weight = updates.model.head.weight.detach().clone()
        decay = 0.0 if number == 0 else min(0.9, 1 - (1 + number) ** (-2 / 3))
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
    assert torch.allclose(updates.evaluated().head.weight, expected, atol=1e-6)
    assert updates.evaluated() is not updates.model


def test_balanced_weights_by_hand() -> None:
    weights = balanced_weights([0, 0, 0, 1, 3, 3], 4)  # six images of four classes, one of which has none
    assert torch.allclose(weights, torch.tensor([6 / (4 * 3), 6 / 4, 1.0, 6 / (4 * 2)]))


def test_class_weights_count_in_the_gradient() -> None:
    """Twice an image of the first class and once one of the others, as a batch that holds the first kind twice."""
    images, targets = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    weighted = updates_of(small(), weights=torch.tensor([2.0, 1.0, 1.0]), **SGD)
    repeated = updates_of(small(), lr=0.1 * 3 / 2, **SGD)  # its mean is over three images
    weighted.step([(images, targets)])
    repeated.step([(images[[0, 0, 1]], targets[[0, 0, 1]])])
    assert distance(weighted.model, repeated.model) < 1e-6


def test_soft_targets_train() -> None:
    images, targets = batch(4)
    hard, soft = updates_of(small(), **SGD), updates_of(small(), **SGD)
    hard.step([(images, targets)])
    soft.step([(images, F.one_hot(targets, 3).float())])
    assert distance(hard.model, soft.model) < 1e-6


def test_a_loss_that_is_no_number_is_told_with_its_step() -> None:
    images, targets = batch(4)
    updates = updates_of(small())
    for _ in range(3):
        updates.step([(images, targets)])
    with pytest.raises(DivergedError, match="since step 4; try a lower --lr"):
        updates.step([(images * math.nan, targets)])
    with pytest.raises(DivergedError, match="step 4"):  # it stays so
        updates.check()


def test_bfloat16_computes_in_it_and_keeps_float32_weights() -> None:
    seen = []
    updates = updates_of(small(), precision="bfloat16")
    updates.model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    updates.step([batch(4)])
    assert seen == [torch.bfloat16]
    assert {value.dtype for value in updates.model.parameters()} == {torch.float32}


def test_state_goes_over_to_another() -> None:
    one, other = updates_of(small(), ema=0.9), updates_of(small(5), ema=0.9)
    for number in range(2):
        one.step([batch(4, number)])
    other.load_state_dict(copy.deepcopy(one.state_dict()))  # as through a file: nothing is shared
    for updates in (one, other):
        updates.step([batch(4, 9)])
    assert other.steps == 3
    assert distance(one.model, other.model) == distance(one.evaluated(), other.evaluated()) == 0

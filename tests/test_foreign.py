"""Callables among a recipe's ops: they repeat, draw for themselves, and are refused where they cannot be kept."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import augment_gpu as ag
from augment_gpu.ops.foreign import sample_foreign

pytestmark = pytest.mark.usefixtures("threads")

INDEX = np.array([7, 2**40, 3, 0])


def batch() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 12, 13), generator=torch.Generator().manual_seed(0)).byte()


def recipe(*ops: Any) -> ag.Recipe:
    return ag.Recipe(size=8, ops=ops, mean=None, std=None)


def run(made: ag.Recipe, *, index: np.ndarray = INDEX, seed: int = 0, epoch: int = 0) -> torch.Tensor:
    images: torch.Tensor = ag.Stage(made, seed)(batch(), index=index, epoch=epoch)[0]
    return images


def noisy(images: torch.Tensor) -> torch.Tensor:
    return (images + 0.1 * torch.randn(images.shape)).clamp(0, 1)


class Halves(nn.Module):
    """An nn.Module; remembers what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(images.shape))
        return images.mul_(0.5)


def test_it_repeats_by_seed_epoch_and_the_batchs_first_sample() -> None:
    made = recipe(noisy)
    first = run(made)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(run(made), first)
    plain = [run(recipe(), **options) for options in ({}, {"seed": 1}, {"epoch": 1}, {"index": INDEX + 1})]
    results = [run(made, **options) for options in ({}, {"seed": 1}, {"epoch": 1}, {"index": INDEX + 1})]
    noises = torch.stack([result - images for result, images in zip(results, plain, strict=True)]).flatten(1)
    # Of 768 numbers a correlation by chance errs by 0.036.
    assert (torch.corrcoef(noises) - torch.eye(4)).abs().max() < 0.2


def test_it_draws_what_the_seed_gives() -> None:
    images = run(recipe())
    with torch.random.fork_rng():
        torch.manual_seed(sample_foreign(ag.Key(0, 0), INDEX, 0))
        wanted = noisy(images)
    assert torch.equal(run(recipe(noisy)), wanted)


def test_the_users_own_generator_goes_on_undisturbed() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        wanted = torch.rand(3)
        torch.manual_seed(5)
        run(recipe(noisy))
        assert torch.equal(torch.rand(3), wanted)


def test_two_of_them_draw_for_themselves() -> None:
    images, once, twice = run(recipe()), run(recipe(noisy)), run(recipe(noisy, noisy))
    noises = torch.stack([(once - images).flatten(), (twice - once).flatten()])
    assert torch.corrcoef(noises)[0, 1].abs() < 0.2


def test_it_stands_in_its_place_between_named_ops_and_sees_the_whole_batch() -> None:
    module = Halves()
    invert = ("invert", {"p": 1.0})
    images = run(recipe())
    torch.testing.assert_close(run(recipe(module, invert)), 1 - images / 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(run(recipe(invert, module)), (1 - images) / 2, rtol=0, atol=1e-6)
    assert module.seen == [(4, 3, 8, 8)] * 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning:kornia")
def test_a_module_of_kornia_augmentation_repeats() -> None:
    import kornia.augmentation as K

    made = recipe(K.RandomGaussianNoise(std=0.2, p=0.7), K.RandomHorizontalFlip(p=0.5))
    result = run(made)
    assert torch.equal(run(made), result)
    assert not torch.equal(run(made, epoch=1), result)
    assert not torch.equal(run(recipe()), result)


def test_normalisation_writes_to_no_memory_of_its() -> None:
    kept = torch.full((4, 3, 8, 8), 0.5)
    made = ag.Recipe(size=8, ops=(lambda images: kept,), mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.1))
    assert (run(made) == 0).all()
    assert (kept == 0.5).all()
    grey = ag.Recipe(size=8, ops=(lambda images: images.mean(1, keepdim=True).expand_as(images),))
    assert torch.isfinite(run(grey)).all()  # of views that repeat memory too


def test_evaluation_is_not_touched() -> None:
    module = Halves()
    ag.Stage(recipe(module)).eval()(batch())
    assert module.seen == []


def test_an_empty_batch_passes() -> None:
    images = ag.Stage(recipe(noisy))(torch.zeros(0, 3, 12, 13), index=np.zeros(0, dtype=np.int64))[0]
    assert images.shape == (0, 3, 8, 8)


# ---- what is refused


@pytest.mark.parametrize(("op", "name"), [(noisy, "noisy"), (Halves(), "Halves")])
def test_it_is_neither_stored_nor_replayed(op: Any, name: str) -> None:
    made = recipe(("invert", {}), op)
    with pytest.raises(ValueError, match=f"^ops holds {name}, a callable, which no file can hold"):
        made.to_dict()
    dataset = [(np.zeros((9, 9, 3), np.uint8), 0)]
    with pytest.raises(ValueError, match=f"^ops holds {name}, a callable, which saw whole batches"):
        ag.replay(made, dataset, 0, 0, 0)


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (lambda images: None, "NoneType"),
        (lambda images: images[:2], r"\(2, 3, 8, 8\)"),
        (lambda images: images[:, :1], r"\(4, 1, 8, 8\)"),
        (lambda images: images[..., :4], r"\(4, 3, 8, 4\)"),
    ],
)
def test_another_result_is_refused(result: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"<lambda> made {kind} of images \(4, 3, 8, 8\); wanted the same shape"):
        run(recipe(result))


@pytest.mark.parametrize("op", ["invert", 3, None, ("invert",), ("invert", 0.5)])
def test_what_is_neither_pair_nor_callable_is_refused(op: Any) -> None:
    with pytest.raises(ValueError, match=r"^ops holds .*; wanted \(name, options\) pairs, .* callables, "):
        recipe(op)

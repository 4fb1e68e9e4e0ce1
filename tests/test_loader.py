"""Loader: every sample once an epoch, the same bits at any threads, ranks and resumes; bad files named or skipped."""

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import augment_gpu as ag

SIZE = 16
PLAIN: dict[str, Any] = {}
MIXUP: dict[str, Any] = {"mixup_alpha": 1.0, "num_classes": 40}
CUTMIX: dict[str, Any] = {"cutmix_alpha": 1.0, "num_classes": 40}
BOTH: dict[str, Any] = {**MIXUP, **CUTMIX, "label_smoothing": 0.1, "cutout": 4, "fill": "noise", "dtype": "bfloat16"}
TWIST: dict[str, Any] = {"color_twist": {"contrast": 0.4, "hue": 0.1}, "flip": "alternate"}
recipes = pytest.mark.parametrize(
    "options", [PLAIN, MIXUP, CUTMIX, BOTH, TWIST], ids=["plain", "mixup", "cutmix", "both", "twist"]
)

Batches = list[tuple[torch.Tensor, torch.Tensor]]


pytestmark = pytest.mark.usefixtures("threads")


class Pictures:
    """`length` pictures of grain in odd sizes, none alike; the label of each is its position. Those in `bad` cannot be
    read; `read` lists what was asked for."""

    def __init__(self, length: int, *, channels: int = 3, bad: tuple[int, ...] = (), error: Exception | None = None):
        generator = np.random.default_rng(length)
        sizes = [(9 + 3 * i % 17, 21 - 5 * i % 13) for i in range(length)]
        self.images = [generator.integers(0, 256, (*size, channels), dtype=np.uint8) for size in sizes]
        self.bad = bad
        self.error = error or OSError("the disk is gone")
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> tuple[Any, int]:
        self.read.append(index)
        if index in self.bad:
            raise self.error
        return self.images[index], index


def recipe(**options: Any) -> ag.Recipe:
    return ag.Recipe(**{"size": SIZE, **options})


def make(dataset: Any, batch_size: int, *, recipe_options: dict[str, Any] = PLAIN, **options: Any) -> ag.Loader:
    """A loader on the CPU of a fresh training stage, both with seed 5 unless told otherwise."""
    stage = ag.Stage(recipe(**recipe_options), seed=options.pop("stage_seed", 5))
    return ag.Loader(dataset, batch_size, stage, device="cpu", **{"seed": 5, "workers": 2, **options})


def same(one: Batches, other: Batches) -> bool:
    """Bit for bit, batch for batch."""
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def labels(batches: Batches) -> list[int]:
    return torch.cat([targets for _, targets in batches]).tolist()


def joined(ranks: list[Batches]) -> Batches:
    """The ranks' parts of each batch, in the order of the ranks."""
    return [
        (torch.cat([images for images, _ in parts]), torch.cat([targets for _, targets in parts]))
        for parts in zip(*ranks, strict=True)
    ]


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("augment_gpu")]


# ---- a folder of pictures


@pytest.fixture
def folder(tmp_path: Path) -> ag.data.ImageFolder:
    """Two classes, six files: PNG and JPEG, RGB and grey, wide and tall."""
    for i, name in enumerate(("ant/0.png", "ant/1.jpg", "ant/2.png", "bee/3.jpg", "bee/4.png", "bee/5.jpg")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (20 + 7 * i, 50 - 6 * i, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert("L" if i == 2 else "RGB").save(path)
    return ag.data.ImageFolder(tmp_path)


def test_a_folder_becomes_batches_of_finished_pictures_and_labels(folder: ag.data.ImageFolder) -> None:
    batches = list(make(folder, 4))
    assert [images.shape for images, _ in batches] == [(4, 3, SIZE, SIZE), (2, 3, SIZE, SIZE)]
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in batches)
    assert [(targets.shape, targets.dtype) for _, targets in batches] == [((4,), torch.int64), ((2,), torch.int64)]
    assert sorted(labels(batches)) == [0, 0, 0, 1, 1, 1]


def test_the_pictures_are_those_of_replay_in_the_order_of_order(folder: ag.data.ImageFolder) -> None:
    loader = make(folder, 4)
    for epoch in range(3):
        order = loader.order(epoch)
        batches = list(loader)
        assert labels(batches) == [folder.targets[i] for i in order]
        for i, image in zip(order.tolist(), torch.cat([images for images, _ in batches]), strict=True):
            assert torch.equal(image, ag.replay(loader.stage.recipe, folder, i, epoch, 5))


# ---- order and draws


def test_every_epoch_sees_every_sample_once_in_an_order_of_its_own() -> None:
    loader = make(Pictures(23), 4)
    epochs = [labels(list(loader)) for _ in range(4)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [epoch == loader.order(i).tolist() for i, epoch in enumerate(epochs)] == [True] * 4


@pytest.mark.parametrize("length", [1, 2, 100])
def test_an_order_is_a_permutation_that_changes_with_epoch_and_seed(length: int) -> None:
    data = Pictures(length)
    orders = [make(data, 1, seed=seed).order(epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order.tolist()) == list(range(length)) for order in orders)
    if length == 100:
        assert len({tuple(order.tolist()) for order in orders}) == 3


def test_without_shuffling_the_order_is_the_datasets() -> None:
    loader = make(Pictures(7), 3, shuffle=False)
    assert [labels(list(loader)) for _ in range(2)] == [list(range(7))] * 2


@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])  # one; a rest of 3; no rest; more than there are
def test_order_and_pictures_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    data = Pictures(23)
    wanted, given = (list(make(data, size)) for size in (4, batch_size))
    assert labels(given) == labels(wanted)
    assert torch.equal(torch.cat([images for images, _ in given]), torch.cat([images for images, _ in wanted]))
    assert [len(images) for images, _ in given][:-1] == [batch_size] * (-(-23 // batch_size) - 1)


@recipes
@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("prefetch", [1, 2, 7])  # 7: more than there are batches
def test_the_batches_do_not_depend_on_threads_and_prefetching(
    options: dict[str, Any], workers: int, prefetch: int
) -> None:
    data = Pictures(17)
    wanted = list(make(data, 4, recipe_options=options, workers=3))
    given = list(make(data, 4, recipe_options=options, workers=workers, prefetch=prefetch))
    assert same(given, wanted)


def test_another_seed_of_the_stage_changes_the_draws_and_not_the_order() -> None:
    data = Pictures(7)
    one, other = list(make(data, 7)), list(make(data, 7, stage_seed=6))
    assert labels(one) == labels(other)
    assert not torch.equal(one[0][0], other[0][0])


@recipes
@pytest.mark.parametrize("stage_seed", [5, 6])  # the loader's own, and another
def test_batches_are_what_the_stage_makes_of_their_samples(options: dict[str, Any], stage_seed: int) -> None:
    data = Pictures(9)
    loader = make(data, 4, recipe_options=options, stage_seed=stage_seed)
    for epoch in range(2):
        order = loader.order(epoch)
        parts = [order[start : start + 4] for start in (0, 4, 8)]
        stage = ag.Stage(recipe(**options), seed=stage_seed)
        wanted = [stage([data.images[i] for i in part], part, index=part, epoch=epoch) for part in parts]
        assert same(list(loader), wanted)


def test_no_more_than_prefetch_batches_are_read_ahead() -> None:
    data = Pictures(40)
    batches = iter(make(data, 4, prefetch=2))
    next(batches)
    assert len(data.read) <= 3 * 4
    next(batches)
    assert len(data.read) <= 4 * 4
    batches.close()  # type: ignore[attr-defined]
    assert len(data.read) <= 4 * 4


@pytest.mark.parametrize(
    "keep", [lambda images: images, lambda images: images[-1, 0], lambda images: images[0].numpy()]
)
def test_a_batch_that_is_kept_or_a_view_of_it_is_not_written_to_again(keep: Callable[[torch.Tensor], Any]) -> None:
    """At 224 pixels a batch is large enough (from 1 MiB) for its memory to be used again."""
    kept, copies = [], []
    for images, _ in make(Pictures(12), 2, recipe_options={"size": 224, "exact": True}, prefetch=1):
        kept.append(keep(images))
        copies.append(torch.as_tensor(kept[-1]).clone())
        del images
    assert all(torch.equal(torch.as_tensor(one), other) for one, other in zip(kept, copies, strict=True))


# ---- ranks


@recipes
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [23, 13, 5])  # rests of 11 and of 1, which leaves ranks empty; less than one batch
@pytest.mark.parametrize("stage_seed", [5, 6])  # the loader's own, so that partners are neighbours, and another
def test_all_ranks_together_give_the_batches_of_a_single_process(
    options: dict[str, Any], world_size: int, length: int, stage_seed: int
) -> None:
    data = Pictures(length)
    single = make(data, 12, recipe_options=options, stage_seed=stage_seed)
    ranks = [
        make(data, 12 // world_size, recipe_options=options, stage_seed=stage_seed, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for _ in range(2):
        assert same(joined([list(loader) for loader in ranks]), list(single))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("length", [1, 7, 12, 13, 23])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_rank_yields_equally_many_batches_and_they_share_the_samples(
    drop_last: bool, length: int, world_size: int
) -> None:
    data = Pictures(length)
    loaders = [make(data, 3, rank=rank, world_size=world_size, drop_last=drop_last) for rank in range(world_size)]
    ranks = [list(loader) for loader in loaders]
    step = 3 * world_size
    wanted = length // step if drop_last else -(-length // step)
    assert [len(loader) for loader in loaders] == [wanted] * world_size
    assert [len(batches) for batches in ranks] == [wanted] * world_size
    seen = [label for batches in ranks for _, targets in batches for label in targets.tolist()]
    assert sorted(seen) == sorted(loaders[0].order(0)[: wanted * step].tolist())
    if drop_last:
        assert all(len(images) == 3 for batches in ranks for images, _ in batches)
    else:  # no rank has two samples more than another
        assert all(
            max(sizes) - min(sizes) <= 1 for sizes in zip(*[map(rows, batches) for batches in ranks], strict=True)
        )


def rows(batch: tuple[torch.Tensor, torch.Tensor]) -> int:
    return len(batch[0])


def test_with_the_same_seed_a_rank_reads_at_most_one_partner_of_another_a_batch() -> None:
    """Partners stand side by side in the shuffled order, which the loader and the mixing share."""
    data = Pictures(24)
    list(make(data, 4, recipe_options=MIXUP, rank=1, world_size=3))
    assert 8 <= len(data.read) <= 8 + 2


def test_a_rank_without_samples_gives_an_empty_batch_of_the_same_form() -> None:
    data = Pictures(1)
    images, targets = next(iter(make(data, 2, recipe_options=MIXUP, rank=0, world_size=3)))
    assert images.shape == (0, 3, SIZE, SIZE)
    assert targets.shape == (0, 40)


def test_a_rank_without_samples_of_a_grey_dataset_gives_an_empty_grey_batch() -> None:
    data, grey = Pictures(13, channels=1), {"mean": (0.5,), "std": (0.5,)}
    parts = [list(make(data, 3, recipe_options=grey, rank=rank, world_size=4))[-1][0] for rank in range(4)]
    assert {part.shape[1:] for part in parts} == {(1, SIZE, SIZE)}


# ---- state


def resumed(state: dict[str, int], data: Pictures, batch_size: int, **options: Any) -> ag.Loader:
    """A new loader, as after a restart, that goes on from a state that went through a JSON file."""
    loader = make(data, batch_size, **options)
    loader.load_state_dict(json.loads(json.dumps(state)))
    return loader


@recipes
@pytest.mark.parametrize("done", [0, 1, 3, 6])  # before the first batch, within, and after the last of 6
def test_a_resumed_pass_yields_the_remaining_batches_bit_for_bit_and_then_the_next_epoch(
    options: dict[str, Any], done: int
) -> None:
    data = Pictures(23)
    first = make(data, 4, recipe_options=options)
    list(first)  # so that the epoch in question is not the first
    batches = iter(first)
    for _ in range(done):
        next(batches)
    second = resumed(first.state_dict(), data, 4, recipe_options=options)
    # what was prefetched and not yielded does not count as used
    assert same(list(second), list(batches) if done else list(first))
    assert same(list(second), list(first))


def test_a_state_between_two_passes_begins_the_next_epoch() -> None:
    data = Pictures(7)
    first = make(data, 3)
    list(first)
    assert first.state_dict() == {"seed": 5, "stage_seed": 5, "samples": 7, "epoch": 1, "used": 0}
    assert same(list(resumed(first.state_dict(), data, 3)), list(first))


@pytest.mark.parametrize(("batch_size", "world_size"), [(4, 1), (5, 1), (3, 2), (1, 4), (40, 1)])
def test_a_pass_goes_on_with_the_same_samples_at_another_batch_and_world_size(batch_size: int, world_size: int) -> None:
    data = Pictures(23)
    first = make(data, 4, rank=0, world_size=2)
    batches = iter(first)
    next(batches)
    wanted = first.order(0)[8:].tolist()  # 4 of each of 2 ranks are used up
    ranks = [resumed(first.state_dict(), data, batch_size, rank=r, world_size=world_size) for r in range(world_size)]
    assert labels(joined([list(loader) for loader in ranks])) == wanted
    assert labels(joined([list(loader) for loader in ranks])) == first.order(1).tolist()


def test_every_rank_has_the_same_state() -> None:
    data = Pictures(13)
    states = []
    for rank in range(3):
        loader = make(data, 2, rank=rank, world_size=3)
        batches = iter(loader)
        next(batches)
        next(batches)
        states.append(loader.state_dict())
    assert states[0] == states[1] == states[2]
    assert states[0]["used"] == 12  # twice 2 samples of 3 ranks


def test_loading_a_state_in_the_middle_of_a_pass_starts_over_from_there() -> None:
    data = Pictures(9)
    loader = make(data, 2)
    state = loader.state_dict()
    next(iter(loader))
    loader.load_state_dict(state)
    assert labels(list(loader)) == loader.order(0).tolist()


@pytest.mark.parametrize(
    ("change", "message"), [({"seed": 6}, "seed 6"), ({"stage_seed": 6}, "stage_seed 6"), ({"samples": 8}, "samples 8")]
)
def test_the_state_of_another_run_is_refused(change: dict[str, int], message: str) -> None:
    loader = make(Pictures(7), 3)
    with pytest.raises(ValueError, match=f"the state is of a loader with {message}; this one has"):
        loader.load_state_dict({**loader.state_dict(), **change})


def test_the_pass_after_one_that_was_broken_off_is_the_next_epoch() -> None:
    loader = make(Pictures(23), 4)
    for _ in loader:
        break
    assert labels(list(loader)) == loader.order(1).tolist()
    assert labels(list(loader)) == loader.order(2).tolist()


# ---- files that cannot be read


def spoil(kind: str, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "text": b"This is no picture.\n", "empty": b""}[kind])


spoiled = pytest.mark.parametrize("kind", ["truncated", "text", "empty"])


@spoiled
def test_a_bad_file_is_raised_by_its_name(kind: str, folder: ag.data.ImageFolder) -> None:
    path = folder.path(4)
    spoil(kind, Path(path))
    with pytest.raises(ag.DecodeError, match=f"^{re.escape(path)}: "):
        list(make(folder, 4))
    assert reader_threads() == []


def test_a_file_that_vanished_is_raised_by_its_name(folder: ag.data.ImageFolder) -> None:
    Path(folder.path(4)).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(folder.path(4))):
        list(make(folder, 4))


@spoiled
def test_a_bad_file_is_skipped_and_listed_once(kind: str, folder: ag.data.ImageFolder) -> None:
    whole = list(make(folder, 4))
    path = folder.path(4)
    spoil(kind, Path(path))
    loader = make(folder, 4, on_error="skip")
    assert loader.skipped == []
    batches = list(loader)
    ((name, reason),) = loader.skipped
    assert name == path
    assert reason.startswith(f"{path}: ")
    keep = loader.order(0) != 4
    for part, (images, targets), (intact, intact_targets) in zip((keep[:4], keep[4:]), batches, whole, strict=True):
        assert torch.equal(images, intact[torch.from_numpy(part)])
        assert torch.equal(targets, intact_targets[torch.from_numpy(part)])
    assert sum(len(images) for images, _ in loader) == 5
    assert len(loader.skipped) == 1


@pytest.mark.parametrize("options", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_a_sample_whose_partner_is_missing_stays_unmixed_and_the_others_keep_their_bits(
    options: dict[str, Any],
) -> None:
    intact, data = Pictures(13), Pictures(13, bad=(2, 9))
    whole = list(make(intact, 5, recipe_options=options))
    loader = make(data, 5, recipe_options=options, on_error="skip")
    stays = 0
    for start, (images, targets), (all_images, all_targets) in zip((0, 5, 10), loader, whole, strict=True):
        part = loader.order(0)[start : start + 5]
        sample = ag.sample_mixup if "mixup_alpha" in options else ag.sample_cutmix
        partner = part[sample(ag.Key(5, 0), part, alpha=1.0).partner]
        kept = [row for row, i in enumerate(part) if i not in data.bad]
        assert len(images) == len(targets) == len(kept)
        for image, target, row in zip(images, targets, kept, strict=True):
            if partner[row] in data.bad:
                stays += 1
                assert torch.equal(image, ag.replay(loader.stage.recipe, intact, int(part[row]), 0, 5))
                assert target.tolist() == torch.eye(40)[part[row]].tolist()
            else:
                assert torch.equal(image, all_images[row])
                assert torch.equal(target, all_targets[row])
    assert stays > 0, "the test needs a sample whose partner is bad"


@pytest.mark.parametrize("options", [PLAIN, BOTH], ids=["plain", "both"])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_all_ranks_skip_what_a_single_process_skips(options: dict[str, Any], world_size: int) -> None:
    data = Pictures(23, bad=(0, 7, 20))
    single = make(data, 12, recipe_options=options, on_error="skip")
    ranks = [
        make(data, 12 // world_size, recipe_options=options, on_error="skip", rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert same(joined([list(loader) for loader in ranks]), list(single))
    assert {name for loader in ranks for name, _ in loader.skipped} == {"sample 0", "sample 7", "sample 20"}


@pytest.mark.parametrize("options", [PLAIN, BOTH], ids=["plain", "both"])
def test_a_batch_of_which_nothing_can_be_read_comes_out_empty(options: dict[str, Any]) -> None:
    data = Pictures(6, bad=(2, 3))
    loader = make(data, 2, recipe_options=options, shuffle=False, on_error="skip")
    batches = list(loader)
    assert [len(images) for images, _ in batches] == [2, 0, 2]
    empty, targets = batches[1]
    assert empty.shape == (0, 3, SIZE, SIZE)
    assert empty.dtype == batches[0][0].dtype
    assert targets.shape == (0, *batches[0][1].shape[1:])
    assert targets.dtype == batches[0][1].dtype
    assert loader.skipped == [("sample 2", "the disk is gone"), ("sample 3", "the disk is gone")]


def test_skipped_samples_count_as_used_in_the_state() -> None:
    data = Pictures(9, bad=(0, 1, 2))
    first = make(data, 3, shuffle=False, on_error="skip")
    batches = iter(first)
    next(batches)
    assert first.state_dict()["used"] == 3
    assert labels(list(resumed(first.state_dict(), data, 3, shuffle=False, on_error="skip"))) == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("error", [KeyError("a typing error in the dataset"), TypeError("another")])
def test_skipping_hides_no_mistakes_in_the_program(error: Exception) -> None:
    with pytest.raises(type(error)):
        list(make(Pictures(5, bad=(3,), error=error), 2, on_error="skip"))


# ---- threads


def all_the_way(loader: ag.Loader) -> None:
    list(loader)


def broken_off(loader: ag.Loader) -> None:
    for _ in loader:
        break


def by_an_exception(loader: ag.Loader) -> None:
    def step(images: torch.Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(map(step, loader))


def closed_before_the_first(loader: ag.Loader) -> None:
    iter(loader).close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("leave", [all_the_way, broken_off, by_an_exception, closed_before_the_first])
@pytest.mark.parametrize("workers", [1, 8])
def test_no_thread_is_left_when_a_pass_ends(leave: Callable[[ag.Loader], None], workers: int) -> None:
    before = set(threading.enumerate())
    leave(make(Pictures(40), 2, workers=workers, prefetch=5))
    assert set(threading.enumerate()) <= before


# ---- datasets


@pytest.mark.parametrize("kind", ["tensor", "pil", "grey pil", "numpy labels"])
def test_a_dataset_may_give_tensors_and_pil_images(kind: str) -> None:
    data = Pictures(7)
    form: dict[str, Callable[[int], tuple[Any, Any]]] = {
        "tensor": lambda i: (torch.from_numpy(data.images[i]).permute(2, 0, 1), torch.tensor(i)),
        "pil": lambda i: (Image.fromarray(data.images[i]), i),
        "grey pil": lambda i: (Image.fromarray(data.images[i][:, :, 0]), i),
        "numpy labels": lambda i: (data.images[i], np.int32(i)),
    }
    if kind == "grey pil":  # becomes RGB, three channels alike
        data.images = [np.repeat(image[:, :, :1], 3, axis=2) for image in data.images]
    given = make([form[kind](i) for i in range(7)], 3)
    assert same(list(given), list(make(data, 3)))


def test_grey_arrays_stay_one_channel() -> None:
    batches = list(make(Pictures(5, channels=1), 3, recipe_options={"mean": (0.5,), "std": (0.5,)}))
    assert [images.shape for images, _ in batches] == [(3, 1, SIZE, SIZE), (2, 1, SIZE, SIZE)]


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_pictures_of_different_numbers_of_channels_are_refused(on_error: Any) -> None:
    data = Pictures(4)
    data.images[2] = data.images[2][:, :, :1]
    with pytest.raises(ValueError, match="sample 2 has 1 channels and sample 0 has 3"):
        list(make(data, 4, shuffle=False, on_error=on_error))
    assert reader_threads() == []


def test_a_picture_of_another_dtype_is_refused_by_its_name() -> None:
    data = Pictures(4)
    data.images[2] = data.images[2].astype(np.float32)
    with pytest.raises(TypeError, match="sample 2 is float32"):
        list(make(data, 4))


# ---- evaluation


@pytest.mark.parametrize("options", [PLAIN, BOTH], ids=["plain", "both"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_evaluating_stage_keeps_the_order_and_the_labels(options: dict[str, Any], world_size: int) -> None:
    data = Pictures(11)
    ranks = []
    for rank in range(world_size):
        loader = make(data, 3, recipe_options=options, shuffle=False, rank=rank, world_size=world_size)
        loader.stage.eval()
        ranks.append([list(loader), list(loader)])
    first, second = (joined([passes[i] for passes in ranks]) for i in (0, 1))
    assert same(first, second)
    assert labels(first) == list(range(11))
    assert first[0][1].dtype == torch.int64
    wanted, _ = ag.Stage(recipe(**options)).eval()(data.images)
    assert torch.equal(torch.cat([images for images, _ in first]), wanted)


# ---- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"rank": -1}, "rank is -1; it must lie in"),
        ({"rank": 2, "world_size": 2}, "rank is 2; it must lie in .* world_size is 2"),
        ({"world_size": 0}, "rank is 0; it must lie in .* world_size is 0"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"prefetch": 0}, "prefetch is 0; it must be at least 1"),
        ({"workers": 0}, "workers is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_bad_argument_is_refused_by_its_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(Pictures(3), **{"batch_size": 2, **options})


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="the dataset is empty"):
        make(Pictures(0), 2)


# ---- a pass that ends early


class SlowPictures(Pictures):
    """Each takes a while to read, once `slow` is set."""

    slow = False

    def __getitem__(self, index: int, /) -> tuple[Any, int]:
        if self.slow:
            time.sleep(0.01)
        return super().__getitem__(index)


def test_a_pass_that_is_broken_off_reads_no_more_than_was_under_way() -> None:
    dataset = SlowPictures(400)
    batches = iter(make(dataset, 100, workers=1))
    dataset.slow = True
    next(batches)
    under_way = len(dataset.read)
    batches.close()
    assert len(dataset.read) <= under_way + 5  # of the fifty that a thread takes at a time
    read = len(dataset.read)
    time.sleep(0.1)
    assert len(dataset.read) == read  # nobody reads on


def test_a_bad_file_stops_the_reading_of_the_batches_behind_it() -> None:
    dataset = SlowPictures(400, bad=(0,))
    dataset.slow = True
    with pytest.raises(OSError, match="the disk is gone"):
        next(iter(make(dataset, 100, workers=1, shuffle=False)))
    assert len(dataset.read) <= 10  # it, and what was begun until somebody heard of it

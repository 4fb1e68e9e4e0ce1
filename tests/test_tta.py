"""TTA: the mean over the views, whatever the chunks; what it says of models that it cannot use."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import augment_gpu as ag

SIZE, SCALES = 32, (32, 41)
OPTIONS: dict[str, Any] = {"size": SIZE, "scales": SCALES}
# What differs is how a model's own float32 arithmetic is divided among chunks.
CHUNKED = 1e-5


def network(classes: int = 4) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4),
            nn.BatchNorm2d(8),
            nn.Dropout(0.5),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, classes),
        )


def pictures(photo: Any, count: int = 5) -> ag.RaggedBatch:
    """Of different sizes, one of them ten times as wide as high, one smaller than a crop."""
    sizes = [(48, 64), (70, 40), (20, 200), (11, 17), (50, 50)][:count]
    return ag.RaggedBatch.from_images([photo(*size, seed=i) for i, size in enumerate(sizes)])


def by_hand(model: nn.Module, batch: ag.RaggedBatch, weights: tuple[float, ...] = (0.5, 0.5)) -> torch.Tensor:
    """The same by the tensor ops, one image after the other."""
    model = model.eval()
    rows = []
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for image in batch:
        views = ag.multi_scale_ten_crop(image.permute(2, 0, 1)[None].float() / 255, SIZE, SCALES)[0]
        with torch.inference_mode():
            seen = model((views - mean) / std).softmax(dim=1).view(len(SCALES), 10, -1).mean(dim=1)
        rows.append(sum(weight * of_scale for weight, of_scale in zip(weights, seen, strict=True)))
    return torch.stack(rows)


def test_the_mean_over_all_views_of_each_image(photo: Any) -> None:
    model, batch = network(), pictures(photo)
    prediction = ag.TTA(model, **OPTIONS)(batch)
    assert prediction.shape == (5, 4)
    assert prediction.dtype == torch.float32
    torch.testing.assert_close(prediction.sum(dim=1), torch.ones(5))
    torch.testing.assert_close(prediction, by_hand(model, batch), rtol=0, atol=1e-4)  # resampling to 0.005 of a level


def test_weights_are_of_scales(photo: Any) -> None:
    model, batch = network(), pictures(photo)
    prediction = ag.TTA(model, weights=(3, 1), **OPTIONS)(batch)
    torch.testing.assert_close(prediction, by_hand(model, batch, (0.75, 0.25)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("max_views", [1, 7, 20, 33, 1000])  # of 100 views: 20 an image
def test_chunks_change_nothing(photo: Any, max_views: int) -> None:
    model, batch = network(), pictures(photo)
    whole, chunked = ag.TTA(model, **OPTIONS), ag.TTA(model, max_views=max_views, **OPTIONS)
    torch.testing.assert_close(chunked(batch), whole(batch), rtol=0, atol=CHUNKED)


def test_an_image_alone_is_predicted_as_in_a_batch(photo: Any) -> None:
    tta, batch = ag.TTA(network(), **OPTIONS), pictures(photo)
    together = tta(batch)
    for i, image in enumerate(batch):
        alone = tta([image.permute(2, 0, 1)])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=CHUNKED)


def test_logits_may_be_averaged_instead(photo: Any) -> None:
    model, batch = network(), pictures(photo, 2)
    tta = ag.TTA(model, average="logits", crops=2, size=SIZE, scales=(SIZE,))
    seen = ag.TTA(lambda x: model.eval()(x).softmax(1).log(), average="logits", crops=2, size=SIZE, scales=(SIZE,))
    prediction = tta(batch)
    torch.testing.assert_close(prediction.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(prediction, seen(batch), rtol=0, atol=CHUNKED)  # logits but for a constant an image
    assert not torch.allclose(prediction, ag.TTA(model, crops=2, size=SIZE, scales=(SIZE,))(batch), atol=1e-7)


def test_no_more_views_than_allowed_are_ever_held(photo: Any) -> None:
    """One buffer, overwritten chunk by chunk."""
    seen: list[tuple[int, int]] = []
    model = network().eval()

    def watched(images: torch.Tensor) -> torch.Tensor:
        seen.append((len(images), images.data_ptr()))
        return model(images)

    ag.TTA(watched, max_views=16, **OPTIONS)(pictures(photo))
    assert sum(count for count, _ in seen) == 100
    assert max(count for count, _ in seen) == 16
    assert len({address for _, address in seen}) == 1


def test_a_model_in_training_mode_is_evaluated_and_left_as_it_was(photo: Any) -> None:
    model, batch = network(), pictures(photo, 2)
    model.train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = ag.TTA(model, **OPTIONS)(batch), ag.TTA(model, **OPTIONS)(batch)
    assert torch.equal(first, second)  # no dropout
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())  # no running means
    assert [module.training for module in model][:4] == [True, True, False, True]


def test_dense_images_and_lists_are_taken_too(noise: Any) -> None:
    images = [noise(40, 50, seed=seed) for seed in range(3)]
    tta = ag.TTA(network(), **OPTIONS)
    wanted = tta(ag.RaggedBatch.from_images(images))
    dense = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    torch.testing.assert_close(tta(images), wanted)
    torch.testing.assert_close(tta(dense), wanted, rtol=0, atol=CHUNKED)
    # uint8 is resized with 8-bit rounding, floating point is not
    torch.testing.assert_close(tta(dense.float() / 255), wanted, rtol=0, atol=1e-3)


def test_a_batch_of_none_has_no_predictions() -> None:
    assert ag.TTA(network(), num_classes=4, **OPTIONS)(ag.RaggedBatch.from_images([])).shape == (0, 4)


def test_sixteen_bit_views_run_under_autocast(photo: Any) -> None:
    model, batch = network(), pictures(photo, 2)
    half = ag.TTA(model, dtype=torch.bfloat16, **OPTIONS)(batch)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, ag.TTA(model, **OPTIONS)(batch), rtol=0, atol=0.02)  # 8 bits of a logit


def test_fully_convolutional_evaluation_is_the_head_over_the_map(photo: Any) -> None:
    """A timm network whose pooling is a mean: the head is linear, so over the map before it is averaged logits."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("resnet10t", num_classes=4).eval()
    image = photo(64, 64)
    options: dict[str, Any] = {"size": 64, "scales": (64,), "crops": 1, "average": "logits"}
    whole = ag.TTA(model, fully_convolutional=True, **options)([image])
    torch.testing.assert_close(whole, ag.TTA(model, **options)([image]), rtol=0, atol=1e-4)
    mirrored = ag.TTA(model, fully_convolutional=True, **{**options, "crops": 2})([image])
    torch.testing.assert_close(mirrored, ag.TTA(model, **{**options, "crops": 2})([image]), rtol=0, atol=1e-4)


def test_fully_convolutional_evaluation_takes_images_of_any_shape(photo: Any) -> None:
    import timm

    model = timm.create_model("resnet10t", num_classes=4)
    tta = ag.TTA(model, fully_convolutional=True, size=32, scales=(32, 64))
    together = tta(pictures(photo))
    assert together.shape == (5, 4)
    torch.testing.assert_close(together.sum(dim=1), torch.ones(5))


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_fully_convolutional_evaluation_averages_what_it_is_told(photo: Any, average: Any) -> None:
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("resnet10t", num_classes=4).eval()
        model.fc.weight.data.mul_(50)  # so that the mean of probabilities is another than that of logits
    image = photo(96, 96)
    tta = ag.TTA(model, fully_convolutional=True, size=96, scales=(96,), crops=1, average=average)
    chw = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        places = model.fc(model.forward_features(((chw - mean) / std)[None]).permute(0, 2, 3, 1).flatten(0, 2))
    seen = places.softmax(1).mean(0) if average == "probabilities" else places.mean(0).softmax(0)
    torch.testing.assert_close(tta([image])[0], seen, rtol=0, atol=1e-4)


def test_a_prediction_may_be_learnt_from_and_written_to(photo: Any) -> None:
    prediction = ag.TTA(network(), **OPTIONS)(pictures(photo, 2))
    student = torch.zeros(2, 4, requires_grad=True)
    torch.nn.functional.kl_div(student.log_softmax(1), prediction, reduction="batchmean").backward()
    assert student.grad is not None
    prediction.mul_(0.5)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, "scales is empty"),
        ({"scales": (16,)}, "scales holds 16; a crop of 32 is larger"),
        ({"crops": 4}, "crops is 4"),
        ({"weights": (1,)}, "wanted 2 numbers"),
        ({"weights": (0, 0)}, "at least one above 0"),
        ({"weights": (1, -1)}, "wanted 2 numbers"),
        ({"average": "median"}, "average is 'median'"),
        ({"max_views": 0}, "max_views is 0"),
        ({"fully_convolutional": True}, "Sequential has no forward_features"),
    ],
)
def test_a_bad_argument_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ag.TTA(network(), **{**OPTIONS, **options})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x.mean(dim=(2, 3)), r"the model gave \(40, 3\); \(40, 4\) is wanted"),
        (lambda x: x.mean(dim=(1, 2, 3)), r"the model gave \(40,\); \(40, 4\) is wanted"),
        (lambda x: x.mean(dim=(2, 3))[1:], r"the model gave \(39, 3\)"),
        (lambda x: {"logits": x}, "the model gave a dict"),
    ],
)
def test_outputs_of_another_shape_are_named(photo: Any, model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ag.TTA(model, num_classes=4, **OPTIONS)(pictures(photo, 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_outputs_that_are_not_finite_are_named_with_their_images(photo: Any, value: float) -> None:
    model = network().eval()

    def breaks(images: torch.Tensor) -> torch.Tensor:
        logits = model(images)
        logits[20:25, 0] = value  # views of the second image
        return logits

    with pytest.raises(ValueError, match=r"not finite for images \[1\] of the batch"):
        ag.TTA(breaks, **OPTIONS)(pictures(photo, 3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_vit", "a map"),  # tokens
        ("vgg11", "where in the map"),  # a convolution over 7 x 7 places
    ],
)
def test_a_head_that_tells_places_apart_is_refused(photo: Any, name: str, message: str) -> None:
    import timm

    size = {"test_vit": 160, "vgg11": 224}[name]
    tta = ag.TTA(timm.create_model(name, num_classes=4), fully_convolutional=True, size=size, scales=(size,))
    with pytest.raises(ValueError, match=f"cannot be evaluated fully convolutionally: .*{message}"):
        tta([photo(size, size)])


def test_a_network_without_a_map_is_not_fully_convolutional(photo: Any) -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, dynamic_img_size=True, num_classes=4)
    with pytest.raises(ValueError, match=r"forward_features gave \(1, .*; a map"):
        ag.TTA(model, fully_convolutional=True, size=32, scales=(32,))([photo(32, 32)])

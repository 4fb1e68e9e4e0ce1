"""The study of cutout and mixup: its pictures, its network and its table. (The runs themselves want a GPU.)"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.usefixtures("benchmarks_importable")


@pytest.fixture
def archive(tmp_path: Path, noise) -> Path:
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as files:
        for name in ("cat", "dog"):
            for number in range(3):
                data = io.BytesIO()
                Image.fromarray(noise(32, 32, seed=number)).save(data, "png")
                files.writestr(f"some/{name}/{number}.png", data.getvalue())
    return path


def test_training_sees_padded_pictures_at_their_own_scale_and_evaluation_the_whole_ones(
    archive: Path, tmp_path: Path, noise
) -> None:
    import cifar_study

    import augment_gpu as ag

    options = argparse.Namespace(train=archive, test=archive, train_images=None, test_images=2)
    cifar_study.make_data(options, tmp_path / "data")
    train, val = (sorted((tmp_path / "data" / part).glob("*/*")) for part in ("train", "val"))
    assert (len(train), len(val)) == (6, 4)
    padded, whole = np.asarray(Image.open(train[0])), np.asarray(Image.open(val[0]))
    assert np.array_equal(whole, noise(32, 32, seed=0))
    assert np.array_equal(padded, np.pad(whole, ((4, 4), (4, 4), (0, 0))))
    recipe = ag.Recipe(size=32, mean=None, std=None, flip=0.0, exact=True, **cifar_study.CROP)
    stage = ag.Stage(recipe)
    seen, _ = stage([padded] * 50, index=range(50))
    pieces = {padded[y : y + 32, x : x + 32].tobytes() for y in range(9) for x in range(9)}
    found = {(picture * 255).round().byte().permute(1, 2, 0).numpy().tobytes() for picture in seen}
    assert found <= pieces
    assert len(found) > 25  # of 81 offsets
    evaluated, _ = stage.eval()([whole])
    assert np.array_equal((evaluated[0] * 255).round().byte().permute(1, 2, 0).numpy(), whole)


def test_the_network_keeps_every_pixel_up_to_its_second_stage() -> None:
    import cifar_study

    from augment_gpu.transfer.model import create_model

    model = create_model(cifar_study.cifar_resnet18.__name__, 10, scratch=True)
    assert sum(value.numel() for value in model.parameters()) == 11_173_962  # as in the papers' implementations
    features = model.forward_features(torch.zeros(1, 3, 32, 32))
    assert features.shape == (1, 512, 4, 4)


def test_the_table_has_the_papers_errors_beside_ours() -> None:
    import cifar_study

    row = {"epochs": 20, "training_images_per_second": 5000.4, "stage_images_per_second": 9000}
    rows = [{"arm": "plain", "errors": [0.05, 0.07], **row}, {"arm": "cutout 16", "errors": [0.04], **row}]
    *_, plain, cutout = cifar_study.table(rows).splitlines()
    assert plain == "| plain | 6.00 ± 1.41 | 2 | 20 | 4.72, 5.6 | 5000 | 9000 |"
    assert cutout == "| cutout 16 | 4.00 | 1 | 20 | 3.99 | 5000 | 9000 |"


def test_an_arm_has_what_it_says_and_nothing_that_a_run_would_choose_for_fifty_thousand_images() -> None:
    import cifar_study

    import augment_gpu as ag
    from augment_gpu.transfer.plan import AUGMENTATION, plan_for

    chosen = AUGMENTATION[plan_for("scratch", 50_000).augmentation]
    assert "mixup_alpha" in chosen
    for arm in cifar_study.ARMS:
        recipe = ag.Recipe.from_dict({"size": 32, "num_classes": 10, **chosen, **cifar_study.recipe_of(arm)})
        assert recipe.cutout == (16 if arm == "cutout 16" else 0)
        assert recipe.mixup_alpha == (1.0 if arm == "mixup 1.0" else 0.0)
        assert recipe.label_smoothing == recipe.reprob == recipe.cutmix_alpha == 0


def test_files_that_are_ppm_already_are_padded_as_well(tmp_path: Path, noise) -> None:
    import cifar_study

    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as files:
        data = io.BytesIO()
        Image.fromarray(noise(32, 32)).save(data, "ppm")
        files.writestr("some/cat/0.ppm", data.getvalue())
    archive = tmp_path / "pictures.zip"
    options = argparse.Namespace(train=archive, test=archive, train_images=None, test_images=None)
    cifar_study.make_data(options, tmp_path / "data")
    (path,) = (tmp_path / "data" / "train").glob("*/*")
    with Image.open(path) as padded:
        assert padded.size == (40, 40)

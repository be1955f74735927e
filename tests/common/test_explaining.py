"""Attributions by Captum, against what can be told without it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cohortium.common.explaining import told
from cohortium.common.explaining.attribution import answers, attribute
from cohortium.common.explaining.columns import columns
from cohortium.common.explanation import Method
from cohortium.common.models.building import study_module
from cohortium.common.study import Study, load_study

OMICS, SURVIVAL = "omics/study.toml", "survival/study.toml"
EXAMPLES = Path(__file__).parents[2] / "examples"


def study_of(name: str) -> Study:
    return load_study(EXAMPLES / name)


def rows_of(study: Study, n: int, seed: int = 0) -> NDArray[np.float32]:
    """Made-up patients who have every block."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((n, study.layout.inputs), np.float32)
    for block in study.layout.blocks:
        if block.kind != "table":
            rows[:, block.start] = 1
        values: Any = rng.normal(size=(n, block.stop - block.first))
        if block.kind == "sequence":
            values = rng.integers(1, block.levels - 1, values.shape)
        rows[:, block.first : block.stop] = values
    return rows


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_shap", "kernel_shap"])
def test_of_a_linear_model_every_method_gives_weight_times_value(method: Method) -> None:
    study = study_of("survival/study.toml")
    module, rows = study_module(study).eval(), rows_of(study, 3)
    (weights,) = (parameter.detach().numpy() for parameter in module.parameters())
    found, expected = attribute(study, module, rows, method), rows * weights[0]
    for column in columns(study):
        places = list(column.places)
        assert found[:, places].sum(axis=1) == pytest.approx(
            expected[:, places].sum(axis=1), abs=2e-3
        )


@pytest.mark.parametrize("name", ["splice/study.toml", "omics/study.toml"])
def test_integrated_gradients_add_up_to_the_answer_less_that_of_nothing(name: str) -> None:
    study = study_of(name)
    module, rows = study_module(study).eval(), rows_of(study, 5)
    method: Method = "integrated_gradients"
    found = attribute(study, module, rows, method).sum(axis=1)
    expected = answers(study, module, rows) - answers(study, module, rows, method)
    assert found == pytest.approx(expected, abs=2e-3)


def test_what_one_letter_adds_is_at_its_place() -> None:
    """Of a sequence whose first half counts for nothing."""
    study = study_of("splice/study.toml")
    module, rows = study_module(study).eval(), rows_of(study, 4)
    (block,) = study.layout.blocks
    with torch.no_grad():
        flat = next(p for name, p in module.named_parameters() if name.startswith("head"))
        channels = study.model.channels[-1]  # type: ignore[union-attr]
        places = flat.shape[1] // channels
        flat.view(len(flat), places, channels)[:, : places // 2] = 0
    found = np.abs(attribute(study, module, rows, "integrated_gradients"))
    half = (block.first + block.stop) // 2
    near = 16  # as far as two convolutions of width 9 and their pooling see
    assert found[:, block.first : half - near].max() == 0
    assert found[:, half:].max() > 0


def test_grad_cam_is_the_weighted_map_of_the_last_convolution() -> None:
    study = study_of("radiographs/study.toml")
    module: Any = study_module(study).eval()
    rows = rows_of(study, 2)
    (block,) = study.layout.blocks
    found = attribute(study, module, rows, "grad_cam")[:, block.first : block.stop]
    x = torch.from_numpy(rows)
    maps = module.features(x[:, block.first :].reshape(-1, *block.shape)).detach()
    maps.requires_grad_()
    module.head(maps).sum().backward()
    weights = maps.grad.mean(dim=(2, 3), keepdim=True)
    cam = torch.relu((weights * maps).sum(dim=1, keepdim=True))
    whole = torch.nn.functional.interpolate(cam, block.shape[1:], mode="bilinear")
    assert found == pytest.approx(whole.detach().flatten(1).numpy(), abs=1e-6)
    assert (found >= 0).all()


def test_attention_of_all_places_adds_up_to_one() -> None:
    study = study_of("splice/study-transformer.toml")
    found = attribute(study, study_module(study).eval(), rows_of(study, 3), "attention")
    assert found.sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert (found >= 0).all()


def test_every_input_that_may_vary_is_one_columns() -> None:
    for name in ("survival/study.toml", "splice/study.toml", "omics/study.toml"):
        study = study_of(name)
        places = [place for column in columns(study) for place in column.places]
        presence = {block.start for block in study.layout.blocks if block.kind != "table"}
        assert sorted([*places, *presence]) == list(range(study.layout.inputs))
        assert len({column.name for column in columns(study)}) == len(columns(study))
    names = [column.name for column in columns(study_of("survival/study.toml"))]
    assert names[:4] == ["age", "meno", "size", "grade"]


@pytest.mark.parametrize("method", ["gradient_shap", "kernel_shap", "lime"])
def test_what_is_drawn_follows_from_the_seed_and_moves_nobody_elses(method: Method) -> None:
    study = study_of(OMICS if method == "gradient_shap" else SURVIVAL)
    module, rows = study_module(study).eval(), rows_of(study, 3)
    found = attribute(study, module, rows, method)
    np.random.seed(5)
    first = np.random.uniform()
    np.random.seed(5)
    assert (attribute(study, module, rows, method) == found).all()
    assert np.random.uniform() == first


def test_of_too_many_columns_a_block_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places of a sequence, too, whose names do not begin with that of the block and a colon."""
    monkeypatch.setattr(told, "MOST_TOLD", 50)
    study = study_of("splice/study.toml")
    (block,) = study.layout.blocks
    rows = rows_of(study, 12)
    of, every = np.zeros(12, np.int64), np.ones_like(rows)
    found = told.told(study, "integrated_gradients", rows, every, of, least=10)
    assert found is not None
    sizes = {name: one.size for name, one in found.columns.items()}
    assert sizes == {"sequence": block.stop - block.first}


@pytest.mark.parametrize(("odd", "shown"), [(0, True), (3, False), (9, False), (10, True)])
def test_a_place_is_not_told_where_its_letters_taken_from_it_leave_a_few(
    odd: int, shown: bool
) -> None:
    """30 of one class have A at a place, and some another letter, which the logo hides."""
    study = study_of("splice/study.toml")
    (block,) = study.layout.blocks
    rows = rows_of(study, 30)
    rows[:, block.first :] = 1
    rows[:odd, block.first + 4] = 2
    found = told.told(
        study,
        "integrated_gradients",
        rows,
        np.random.default_rng(0).normal(size=rows.shape).astype(np.float32),
        np.zeros(30, np.int64),
        least=10,
    )
    assert found is not None
    (motif,) = found.motifs.values()
    assert [cell is not None for cell in motif[4]] == [True, odd >= 10, False, False]
    assert (f"{block.name} 5" in found.columns) == shown
    assert f"{block.name} 4" in found.columns


def test_an_image_is_not_told_where_the_maps_of_classes_taken_from_it_leave_a_few() -> None:
    study = study_of("radiographs/study.toml")
    asked = study.explanation
    assert asked is not None
    assert asked.saliency
    rows = rows_of(study, 12)
    for classes in (np.zeros(12, np.int64), np.array([0] * 11 + [1])):
        found = told.told(study, "grad_cam", rows, np.ones_like(rows), classes, least=10)
        assert found is not None
        assert set(found.columns) == (set() if classes.any() else {"image"})

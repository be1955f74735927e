"""A model whose layers do not fit the inputs is refused with the numbers, as a study is read."""

from typing import Any

import pytest
from tests.common.test_coherence import STUDY

from cohortium.common.document import parse
from cohortium.common.errors import DocumentError
from cohortium.common.study import Study

COLUMNS = {
    "dna": {"kind": "sequence", "alphabet": "dna", "length": 20},
    "state": {"kind": "sequence", "alphabet": "HEC", "length": 20},
    "scan": {"kind": "image", "height": 12, "width": 8},
    "ill": {"kind": "flag"},
}
BINARY = {"kind": "binary", "label": "ill", "positive_codes": ["1"]}
PLACES = {"kind": "labelling", "label": "state", "of": "dna"}


def study(feature: str, model: dict[str, Any], task: dict[str, Any] = BINARY) -> Study:
    values = {
        **STUDY,
        "data": {"dataset": "ward", "features": [feature]},
        "data_model": {"name": "ward", "columns": COLUMNS},
        "fairness": {},
        "task": task,
        "model": model,
    }
    return parse(values, Study, "study.toml")


def cnn1d(**more: Any) -> dict[str, Any]:
    return {"name": "cnn1d", **more}


@pytest.mark.parametrize(
    ("feature", "model", "says"),
    [
        ("dna", cnn1d(kernel=21), "model.kernel: layer 1 sees 20 places, fewer than the kernel's"),
        ("dna", cnn1d(kernel=7, channels=[4, 4, 4]), "layer 3 sees 5 places, fewer than the ker"),
        (
            "dna",
            cnn1d(kernel=1, pool=5, channels=[4, 4]),
            "layer 2 sees 4 places, fewer than the",
        ),
        ("dna", cnn1d(kernel=4), "model.kernel: 4 is even and has no middle; use 5"),
        ("dna", cnn1d(norm="batch"), 'model.norm: "batch" mixes patients'),
        ("dna", cnn1d(norm="batch"), 'use "layer"'),
        ("dna", cnn1d(norm="group"), 'counts the padding behind a sequence; use "layer"'),
        ("dna", {"name": "transformer", "width": 10, "heads": 4}, "must be a multiple of heads"),
        ("scan", {"name": "cnn2d", "norm": "batch"}, "no site's statistics stay its own; use \"gr"),
        ("scan", {"name": "cnn2d", "kernel": 9}, "layer 1 sees 12 x 8 pixels, fewer than the kern"),
        ("scan", {"name": "cnn2d", "kernel": 1, "channels": [4] * 4}, "layer 4 sees 1 x 1 pixels"),
        ("scan", {"name": "cnn2d", "norm": "group", "channels": [6]}, "6 channels are no multiple"),
        (
            "scan",
            {"name": "resnet", "groups": 3},
            "model.groups: 16 channels are no multiple of th",
        ),
        ("scan", {"name": "resnet", "channels": [8] * 6}, "one pixel is left for width 6"),
        ("scan", {"name": "resnet", "channels": [4] * 5}, "leave one number to norm"),
        ("scan", {"name": "lstm"}, 'a lstm model reads no image ("scan"); models that do: cnn2d'),
    ],
)
def test_a_layer_that_does_not_fit_is_refused_with_the_numbers(
    feature: str, model: dict[str, Any], says: str
) -> None:
    with pytest.raises(DocumentError) as caught:
        study(feature, model)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("feature", "model"),
    [
        ("dna", cnn1d(kernel=19, channels=[4])),
        ("dna", cnn1d(kernel=5, channels=[4, 4, 4], norm="layer")),
        ("dna", {"name": "gru"}),
        ("scan", {"name": "cnn2d", "kernel": 3, "channels": [4, 4], "norm": "group"}),
        ("scan", {"name": "resnet", "channels": [4, 4, 4, 4, 8]}),
    ],
)
def test_the_largest_that_fits_trains(feature: str, model: dict[str, Any]) -> None:
    import torch

    from cohortium.common.models.building import study_module

    read = study(feature, model)
    module = study_module(read).train()
    assert module(torch.ones(1, read.layout.inputs)).shape == (1, 1)


def test_nothing_is_pooled_where_every_place_has_an_answer() -> None:
    model = cnn1d(kernel=7, channels=[4, 4, 4, 4, 4], pool=4)
    assert study("dna", model, PLACES).outputs == 20 * 3

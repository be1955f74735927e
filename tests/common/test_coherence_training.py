"""Training that cannot be, or would do nothing, is refused in one line, with the key."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.common.test_coherence import refusal, study

PLAIN: dict[str, Any] = {
    "training": {"rounds": 5, "batches": "shuffle", "batch_size": 8, "learning_rate": 0.1},
    "privacy": {"mechanism": "none", "epsilon": None, "delta": None, "clip_norm": None},
}
POISSON = {"rounds": 5, "batches": "poisson", "sample_rate": 0.1, "learning_rate": 0.1}
EARLY = {"split": {"validation_fraction": 0.2}}


def plain(**training: object) -> dict[str, Any]:
    return {**PLAIN, "training": {**PLAIN["training"], **training}}


@pytest.mark.parametrize(
    ("training", "says"),
    [
        ({"warmup_rounds": 5}, "training: warmup_rounds = 5 leaves none of 5 rounds"),
        ({"final_share": 0.1}, 'final_share: schedule = "constant" ends where it begins'),
        ({"schedule": "step"}, 'schedule = "step" falls by equal factors, to a final_share above'),
        ({"schedule": "linear", "final_share": 1.0}, 'final_share = 1 is schedule = "constant"'),
        ({"optimiser": "adam", "momentum": 0.9}, '"adam" has beta1: remove momentum'),
        ({"beta1": 0.5}, 'beta1 and beta2 are of optimiser = "adam" and "adamw"'),
        ({"accumulate": 9}, "accumulate: a batch of 8 has no 9 parts"),
        ({"sampling": "over", "shared_stream_rows": [9, 9, 9, 9]}, "chooses who is in a batch"),
        ({"class_weights": [1.0]}, "training.class_weights: 1 numbers for 2 classes"),
        ({"class_weights": [1.0, 2.0], "sampling": "over"}, "both make up for rare classes"),
        ({"patience": 2}, "training.patience needs split.validation_fraction"),
    ],
)
def test_ordinary_training_says_what_does_not_fit(training: Mapping[str, Any], says: str) -> None:
    assert says in refusal("binary", plain(**training))


@pytest.mark.parametrize(
    ("training", "says"),
    [
        ({"optimiser": "adam"}, 'use strategy.name = "fedadam"'),
        ({"accumulate": 2}, 'accumulate: batches = "full" is cut into parts as memory asks'),
        ({"precision": "bfloat16"}, "clipped and given noise in float32 only"),
        ({"sampling": "under"}, "epsilon is computed for Poisson or full batches of all patients"),
    ],
)
def test_with_privacy_what_epsilon_does_not_cover_is_refused(
    training: Mapping[str, Any], says: str
) -> None:
    assert says in refusal("binary", {"training": training})


def test_patience_with_privacy_is_refused_for_its_looks_are_releases() -> None:
    said = refusal("binary", {"training": {"patience": 1, "rounds": 9}, **EARLY})
    assert "each look at validation patients would be a release that no epsilon covers" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"training": {"patience": 5}}, "5 rounds without a better one never pass in 5"),
        ({"strategy": {"average_last": 0.5}}, "average_last a mean of the last; use one"),
        ({"evaluation": {"leave_one_site_out": True}}, "stop each model of evaluation.leave_one"),
        ({"mitigation": {"ditto": 0.1}}, "mitigation.ditto trains a personal model"),
    ],
)
def test_patience_is_refused_beside_what_needs_every_round(
    change: Mapping[str, Any], says: str
) -> None:
    training = {**plain(patience=2)["training"], **change.get("training", {})}
    assert says in refusal("binary", {**PLAIN, **EARLY, **change, "training": training})


def test_nobody_is_held_out_for_nothing() -> None:
    said = refusal("binary", {**PLAIN, **EARLY})
    assert "split.validation_fraction needs training.patience" in said


def test_the_example_in_the_documentation_is_a_study() -> None:
    page = (Path(__file__).parents[2] / "docs/training.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    written = tomllib.loads(example)
    written["privacy"] |= {"epsilon": None, "delta": None, "clip_norm": None}
    assert study("binary", written).training.patience == 8


@pytest.mark.parametrize("kind", ["regression", "survival", "multilabel"])
def test_only_classes_have_weights(kind: str) -> None:
    said = refusal(kind, plain(class_weights=[1.0, 2.0]))
    assert f"training.class_weights: a {kind} outcome puts a patient into no class" in said


def test_class_weights_are_public_numbers_and_may_be_private() -> None:
    made = study("multiclass", {"training": {"class_weights": [1.0, 2.0, 4.0]}})
    assert made.training.class_weights == (1.0, 2.0, 4.0)
    weighted = {**POISSON, "class_weights": [1.0, 2.0], "optimiser": "adamw", "l1": 0.01}
    assert study("binary", {"training": weighted}).training.optimiser == "adamw"

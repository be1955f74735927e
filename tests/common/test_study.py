"""A study that cannot work, or protects less than it says, is refused before anyone is bothered."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from tests.federation import PLAIN, PRIVATE, SCHEMA, STUDY

from cohortium.common.document import canonical, parse_json
from cohortium.common.errors import DocumentError
from cohortium.common.study import Study, load_study

FULL = {
    "training": {"rounds": 2, "batches": "full"},
    "privacy": {"mechanism": "gaussian", "epsilon": 1.0, "delta": 1e-5, "clip_norm": 1.0},
}
MLP = {"name": "mlp", "hidden": [4], "dropout": 0.1}
NUMBER_LABEL = {"kind": "binary", "label": "marker", "positive_above": 5}


def merge(old: Any, new: Any) -> Any:
    """`new` over `old`, table by table; None takes a key away."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    keys = {*old, *new}
    merged = {key: merge(old.get(key), new[key]) if key in new else old[key] for key in keys}
    return {key: value for key, value in merged.items() if value is not None}


def write(folder: Path, change: Mapping[str, Any], base: str = PRIVATE) -> Path:
    (folder / "schema.toml").write_text(SCHEMA)
    path = folder / "study.toml"
    path.write_text(tomli_w.dumps(merge(tomllib.loads(STUDY + base), change)))
    return path


def refusal(folder: Path, change: Mapping[str, Any], base: str = PRIVATE) -> str:
    path = write(folder, change, base)
    with pytest.raises(DocumentError) as caught:
        load_study(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"purpose": {"duo": "XYZ"}}, 'purpose: duo "XYZ" is no Data Use Ontology code'),
        ({"purpose": {"text": "short"}}, "purpose.text"),
        ({"purpose": None}, '"purpose" is missing'),
        ({"data": {"features": ["age", "age"]}}, "features names a column twice"),
        ({"data": {"features": []}}, "data.features"),
        ({"data": {"features": ["age", "makrer"]}}, 'data.features: schema "ward" has no "makrer"'),
        ({"data": {"features": ["age", "makrer"]}}, 'did you mean "marker"?'),
        ({"data": {"features": ["age", "ill"]}}, 'data.features: "ill" is the label itself'),
        ({"data": {"dataset": "../ward"}}, "data.dataset"),
        ({"sites": {"round_deadline": "10 minutes"}}, '"90s", "10m", "2h" or "7d"'),
        ({"sites": {"round_deadline": "91d"}}, "sites.round_deadline"),
        ({"sites": {"on_missing": "ignore"}}, "sites.on_missing"),
        ({"evaluation": {"thresholds": []}}, "evaluation.thresholds"),
        ({"evaluation": {"thresholds": [1.0]}}, "evaluation.thresholds"),
        ({"evaluation": {"thresholds": [0.0, 0.5]}}, "evaluation.thresholds"),
        ({"evaluation": {"thresholds": [0.5, 0.5]}}, "thresholds names one twice"),
        ({"evaluation": {"thresholds": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}}, "evaluation.thresholds"),
        ({"data": {"featrues": ["age"]}}, 'unknown key "data.featrues"; did you mean "features"?'),
        ({"data_model": {}}, 'unknown key "data_model"; the schema goes into data.schema'),
        ({"task": {"label": "sick"}}, 'task.label: schema "ward" has no "sick"'),
        ({"task": {"positive_above": 1.0}}, "exactly one of positive_above and positive_codes"),
        ({"task": {"positive_codes": None}}, "exactly one of positive_above and positive_codes"),
        ({"task": {"positive_codes": ["2"]}}, "task.positive_codes: ['2'] are no codes"),
        ({"task": {"positive_codes": ["0", "1"]}}, "task.positive_codes: every code is positive"),
        (
            {"task": {"positive_codes": None, "positive_above": 1}},
            'task: "ill" has codes: give positive_codes',
        ),
        (
            {"task": {"label": "marker"}, "data": {"features": ["age"]}},
            'task: "marker" is a number: give positive_above',
        ),
        (
            {
                "task": {"label": "marker", "positive_codes": None, "positive_above": 10},
                "data": {"features": ["age"]},
            },
            "task.positive_above: 10.0 is outside the label's bounds",
        ),
        ({"model": {"hidden": [4]}}, 'model: a logistic model has no "hidden" layers'),
        ({"model": {"name": "mlp"}}, 'at least one width in "hidden"'),
        ({"model": {"dropout": 0.1}}, 'no layer for "dropout"'),
        ({"model": {"name": "mpl"}}, "model.name"),
        ({"split": {"column": "fold"}}, "split: give exactly one of test_fraction and column"),
        ({"split": {"test_fraction": None}}, "split: give exactly one of test_fraction and column"),
        ({"split": {"test_fraction": 1}}, "split.test_fraction"),
        ({"split": {"test_fraction": None, "column": "age"}}, 'split.column: "age" is an input'),
        ({"split": {"test_fraction": None, "column": "ill"}}, 'split.column: "ill" is an input'),
        ({"preprocessing": {"scaling": "federated-standard"}}, 'with privacy use "public-range"'),
        ({"preprocessing": {"scaling": "site-standard"}}, "preprocessing.scaling"),
        (
            {"preprocessing": {"missing": "impute", "missing_indicators": ["age"]}},
            "preprocessing.missing_indicators: only with",
        ),
        (
            {"preprocessing": {"missing_indicators": ["ill"]}},
            'preprocessing.missing_indicators: "ill" is not in data.features',
        ),
        ({"training": {"rounds": 0}}, "training.rounds"),
        ({"training": {"sample_rate": None}}, 'batches = "poisson" needs sample_rate'),
        ({"training": {"sample_rate": 1.5}}, "training.sample_rate"),
        ({"training": {"batch_size": 8}}, 'batches = "poisson" does not use batch_size'),
        ({"training": {"learning_rate": None}}, 'batches = "poisson" needs learning_rate'),
        ({"training": {"shared_stream_rows": [1, 2, 3]}}, "shared_stream_rows"),
        (
            {"training": {"batches": "shuffle", "batch_size": 8, "sample_rate": None}},
            'training.batches = "shuffle" cannot be private',
        ),
        ({"strategy": {"name": "fedprox"}}, 'proximal_mu above 0 and name = "fedprox"'),
        ({"strategy": {"proximal_mu": 0.1}}, 'proximal_mu above 0 and name = "fedprox"'),
        (
            {"strategy": {"name": "fedprox", "proximal_mu": 0.1}},
            "strategy.proximal_mu: the proximal term acts on ordinary training only",
        ),
        ({"strategy": {"weighting": "exact"}}, 'strategy.weighting = "exact" reveals'),
        ({"strategy": {"average_last": 1.0}}, "strategy.average_last"),
        ({"privacy": {"epsilon": None}}, 'mechanism = "gaussian" needs epsilon'),
        (
            {"privacy": {"delta": None, "clip_norm": None}},
            'mechanism = "gaussian" needs delta, clip_norm',
        ),
        ({"privacy": {"epsilon": 0}}, "privacy.epsilon"),
        ({"privacy": {"delta": 0.5}}, "privacy.delta"),
        ({"privacy": {"mechanism": "none"}}, "remove epsilon, delta, clip_norm"),
        (
            {"privacy": {"mechanism": "none", "epsilon": None, "delta": None, "clip_norm": None}},
            'training.batches = "poisson" exists for privacy: use "shuffle"',
        ),
        ({"privacy": None}, '"privacy" is missing'),
        ({"fairness": {"bands": {"sex": [1]}}}, "sex has codes and takes no fairness.bands.sex"),
        ({"fairness": {"bands": {"age": None}}}, "age needs fairness.bands.age"),
        ({"fairness": {"bands": {"age": []}}}, "fairness.bands.age"),
        ({"fairness": {"bands": {"age": [50, 40]}}}, "fairness.bands.age: edges must rise"),
        ({"fairness": {"bands": {"marker": [5]}}}, "bands.marker: not in fairness.attributes"),
        (
            {"fairness": {"attributes": ["sxe"], "bands": None}},
            'fairness.attributes: schema "ward"',
        ),
        ({"sites": {"names": ["a", "a"], "min_sites": 1}}, "sites: names holds a site twice"),
        ({"sites": {"min_sites": 4}}, "sites: min_sites is 4 but only 3 are named"),
        ({"sites": {"min_sites": 0}}, "sites.min_sites"),
        ({"sites": {"names": []}}, "sites.names"),
        ({"sites": {"names": ["a b"]}}, "sites.names.0"),
    ],
)
def test_an_impossible_private_study_is_refused_with_the_key(
    tmp_path: Path, change: Mapping[str, Any], says: str
) -> None:
    assert says in refusal(tmp_path, change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"training": {"local_steps": 2}}, 'batches = "full" sends one gradient'),
        ({"training": {"learning_rate": 0.1}}, 'batches = "full" sends one gradient'),
        ({"training": {"momentum": 0.9}}, 'batches = "full" takes no step at the site'),
        ({"training": {"weight_decay": 0.1}}, 'batches = "full" takes no step at the site'),
        ({"training": {"sample_rate": 0.1}}, 'batches = "full" does not use sample_rate'),
        ({"model": MLP}, "model.dropout: a full-batch gradient is deterministic"),
        ({"strategy": {"name": "fedprox", "proximal_mu": 0.1}}, "strategy.proximal_mu"),
    ],
)
def test_an_option_that_a_full_batch_would_ignore_is_refused(
    tmp_path: Path, change: Mapping[str, Any], says: str
) -> None:
    base = "\n" + tomli_w.dumps(FULL)
    assert says in refusal(tmp_path, change, base)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"training": {"batch_size": None}}, 'batches = "shuffle" needs batch_size'),
        ({"training": {"sample_rate": 0.1}}, 'batches = "shuffle" does not use sample_rate'),
        ({"training": {"shared_stream_rows": [9, 9]}}, "shared_stream_rows: one number per site"),
        ({"privacy": {"epsilon": 1}}, 'mechanism = "none" protects nobody: remove epsilon'),
    ],
)
def test_an_impossible_study_without_privacy_is_refused(
    tmp_path: Path, change: Mapping[str, Any], says: str
) -> None:
    assert says in refusal(tmp_path, change, PLAIN)


def test_a_study_without_its_schema_says_which_file(tmp_path: Path) -> None:
    path = write(tmp_path, {"data": {"schema": "other.toml"}})
    with pytest.raises(DocumentError, match=r"other\.toml: no such file"):
        load_study(path)
    for absent in ({"data": {"schema": None}}, {"data": {"schema": 3}}, {"data": None}):
        assert '"data.schema" is missing' in refusal(tmp_path, absent)
    (tmp_path / "schema.toml").write_text('name = "ward')
    (tmp_path / "study.toml").write_text(STUDY + PRIVATE)
    with pytest.raises(DocumentError, match=r"schema\.toml: not valid TOML"):
        load_study(tmp_path / "study.toml")


def test_reordered_keys_and_comments_are_the_same_study(tmp_path: Path) -> None:
    first = load_study(write(tmp_path, {})).digest
    values = tomllib.loads(STUDY + PRIVATE)
    turned = dict(reversed([(k, dict(reversed(v.items())) if isinstance(v, dict) else v)
                            for k, v in values.items()]))  # fmt: skip
    (tmp_path / "study.toml").write_text("# again\n" + tomli_w.dumps(turned))
    assert load_study(tmp_path / "study.toml").digest == first


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"purpose": {"text": "Tell ill from well patients, differently."}},
        {"purpose": {"duo": "GRU"}},
        {"purpose": {"legal_basis": "consent"}},
        {"data": {"dataset": "ward2"}},
        {"data": {"features": ["age", "marker", "sex"]}},
        {"task": {"positive_codes": ["0"]}},
        {"task": {"one_class_sites": "allow"}},
        {"model": {"name": "mlp", "hidden": [4]}},
        {"preprocessing": {"scaling": "none"}},
        {"preprocessing": {"site_intercept": True}},
        {"split": {"seed": 1}},
        {"split": {"test_fraction": 0.31}},
        {"training": {"rounds": 5}},
        {"training": {"learning_rate": 0.500001}},
        {"training": {"seed": 1}},
        {"strategy": {"weighting": "equal"}},
        {"strategy": {"average_last": 0.5}},
        {"privacy": {"epsilon": 3.0000001}},
        {"privacy": {"delta": 1.1e-5}},
        {"evaluation": {"every": 2}},
        {"fairness": {"bands": {"age": [51]}}},
        {"sites": {"names": ["a", "c", "b"]}},
        {"sites": {"min_sites": 3}},
        {"sites": {"round_deadline": 61}},
        {"sites": {"min_patients": 100}},
        {"sites": {"on_missing": "wait"}},
    ],
)
def test_any_changed_value_is_another_study(tmp_path: Path, change: Mapping[str, Any]) -> None:
    assert load_study(write(tmp_path, change)).digest != load_study(write(tmp_path, {})).digest


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)]
)
def test_a_duration_is_the_same_in_words_and_in_seconds(
    tmp_path: Path, text: str, seconds: float
) -> None:
    words = load_study(write(tmp_path, {"sites": {"round_deadline": text}}))
    number = load_study(write(tmp_path, {"sites": {"round_deadline": seconds}}))
    assert words.sites.round_deadline == seconds
    assert words.digest == number.digest


def test_a_changed_schema_is_another_study(tmp_path: Path) -> None:
    path = write(tmp_path, {})
    before = load_study(path).digest
    (tmp_path / "schema.toml").write_text(SCHEMA.replace("high = 100", "high = 101"))
    assert load_study(path).digest != before


def test_a_study_that_travelled_is_the_same_study(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, {}))
    again = parse_json(canonical(study), Study, "travelled")
    assert again == study
    assert again.digest == study.digest


def test_columns_read_are_inputs_label_and_attributes_and_no_more(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, {"data": {"features": ["marker"]}}))
    assert study.columns_read == ("marker", "ill", "sex", "age")

"""Every rule of site.toml refuses, and says which key refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.federation import PLAIN, PRIVATE, write_study

from cohortium.client import policy
from cohortium.client.config import Policy
from cohortium.common.document import parse
from cohortium.common.errors import RefusedError
from cohortium.common.study import Study

OPEN = {
    "purposes": ["HMB"],
    "models": ["logistic", "mlp"],
    "max_rounds": 4,
    "max_epsilon_per_study": 3.0,
    "allow_unprotected": True,
    "allow_exact_counts": True,
}


def rules(**changes: Any) -> Policy:
    return parse({**OPEN, **changes}, Policy, "policy")


@pytest.fixture
def private(tmp_path: Path) -> Study:
    return write_study(tmp_path, PRIVATE)


@pytest.fixture
def plain(tmp_path: Path) -> Study:
    return write_study(tmp_path, PLAIN)


def exact(plain: Study) -> Study:
    return changed(plain, "strategy", {"weighting": "exact"})


def sums(plain: Study) -> Study:
    return changed(plain, "preprocessing", {"scaling": "federated-standard"})


def changed(study: Study, part: str, values: Mapping[str, Any]) -> Study:
    document = study.model_dump()
    document[part] |= values
    return Study.model_validate(document)


def refusal(study: Study, chosen: Policy) -> str:
    with pytest.raises(RefusedError) as caught:
        policy.check(study, chosen)
    key = caught.value.rule.removeprefix("policy.")
    assert f"(site.toml [policy] {key}; the site operator can change it)" in str(caught.value)
    assert "\n" not in str(caught.value)
    return key


def test_a_policy_that_allows_the_study_lets_it_pass(private: Study, plain: Study) -> None:
    for study in (private, plain, exact(plain), sums(plain)):
        policy.check(study, rules())


def test_the_policy_that_nobody_edited_allows_no_study(private: Study, plain: Study) -> None:
    for study in (private, plain):
        assert refusal(study, Policy()) == "purposes"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"purposes": ["GRU"]}, "purposes"),
        ({"models": ["mlp"]}, "models"),
        ({"max_rounds": 3}, "max_rounds"),
        ({"max_epsilon_per_study": 2.999999}, "max_epsilon_per_study"),
    ],
)
def test_each_key_refuses_a_private_study(
    private: Study, change: Mapping[str, Any], key: str
) -> None:
    assert refusal(private, rules(**change)) == key


def test_each_switch_refuses_what_it_is_for(private: Study, plain: Study) -> None:
    assert refusal(plain, rules(allow_unprotected=False)) == "allow_unprotected"
    policy.check(private, rules(allow_unprotected=False))
    for study in (exact(plain), sums(plain)):
        assert refusal(study, rules(allow_exact_counts=False)) == "allow_exact_counts"
    policy.check(plain, rules(allow_exact_counts=False))


def test_a_small_cohort_is_refused_without_saying_how_small() -> None:
    policy.check_cohort(20, rules())
    with pytest.raises(RefusedError) as caught:
        policy.check_cohort(17, rules())
    assert caught.value.rule == "policy.minimum_patients"
    assert "fewer than 20 patients" in str(caught.value)
    assert "17" not in str(caught.value)

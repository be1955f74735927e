"""Every rule of site.toml refuses, and says which key refused."""

from collections.abc import Mapping
from datetime import datetime, time
from pathlib import Path
from typing import Any

import pytest
from tests.asking import Asker
from tests.federation import PLAIN, PRIVATE, approve, make_site, write_study

from cohortium.client import policy
from cohortium.client.config import Policy
from cohortium.client.site import open_site
from cohortium.common.document import parse
from cohortium.common.errors import DocumentError, RefusedError
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Update
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


def test_what_may_not_leave_refuses_the_study_that_sends_it(private: Study, plain: Study) -> None:
    few = rules(may_leave=["update", "evaluated"])
    policy.check(private, few)
    assert refusal(sums(plain), few) == "may_leave"
    for kinds in ([], ["update"], ["evaluated"], ["measured"]):
        assert refusal(private, rules(may_leave=kinds)) == "may_leave"
    with pytest.raises(RefusedError, match="evaluated, update may not leave"):
        policy.check(private, rules(may_leave=[]))


def test_a_kind_that_no_message_has_is_a_mistake_in_site_toml_and_not_ignored() -> None:
    with pytest.raises(DocumentError, match="may_leave"):
        rules(may_leave=["updates"])


def test_secure_aggregation_asked_for_is_refused_while_there_is_none(
    private: Study, plain: Study
) -> None:
    for study in (private, plain):
        assert refusal(study, rules(require_secure_aggregation=True)) == (
            "require_secure_aggregation"
        )


# ------------------------------------------------------------------ at which hours


def open_at(hours: str, at: str) -> bool:
    now = datetime.combine(datetime(2026, 3, 1), time.fromisoformat(at)).astimezone()
    try:
        policy.check_hours(rules(hours=hours), now)
    except RefusedError:
        return False
    return True


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("", ["00:00", "12:00", "23:59:59"], []),
        ("08:00-17:00", ["08:00", "12:30", "16:59:59"], ["07:59:59", "17:00", "00:00"]),
        ("20:00-06:00", ["20:00", "23:59:59", "00:00", "05:59:59"], ["06:00", "12:00", "19:59:59"]),
        ("23:00-00:00", ["23:00", "23:59:59"], ["00:00", "22:59:59"]),
        ("07:00-07:00", [], ["07:00", "06:59", "12:00"]),
    ],
)
def test_hours_begin_with_their_first_minute_end_before_their_last_and_pass_midnight(
    hours: str, inside: list[str], outside: list[str]
) -> None:
    assert [open_at(hours, at) for at in inside] == [True] * len(inside)
    assert [open_at(hours, at) for at in outside] == [False] * len(outside)


@pytest.mark.parametrize("hours", ["24:00-06:00", "8:00-17:00", "20:00", "20:00-06:60", "always"])
def test_hours_that_are_none_are_a_mistake_in_site_toml(hours: str) -> None:
    with pytest.raises(DocumentError, match="hours"):
        rules(hours=hours)


def test_a_round_outside_the_hours_waits_and_spends_nothing(tmp_path: Path, private: Study) -> None:
    key = SigningKey.generate()
    made = make_site(tmp_path / "a", "a", key.public, policy={"hours": '"20:00-06:00"'})
    today = {"at": datetime(2026, 3, 1, 12).astimezone()}
    asker = Asker(key, open_site(made.directory.root, lambda: today["at"]))
    approve(asker.site, private)
    assert asker.invite(private).message.decision == "approved"  # asking is free at any hour
    heard = asker.train(private, 1)
    assert heard.rule == "site.hours"
    assert "training runs only at 20:00-06:00 (site.toml line" in heard.message.explanation
    assert asker.site.ledger(private).entries() == []
    today["at"] = datetime(2026, 3, 1, 20).astimezone()
    assert isinstance(asker.train(private, 1).message, Update)
    assert len(asker.site.ledger(private).entries()) == 1


# ------------------------------------------------------------------ where it stands


def test_a_refusal_names_the_line_of_site_toml(tmp_path: Path, private: Study) -> None:
    file = tmp_path / "site.toml"
    file.write_text('name = "a"\n# max_rounds = 9\n[policy]\npurposes = ["HMB"]\nmax_rounds=3\n')
    with pytest.raises(RefusedError, match=r"\(site\.toml line 5, \[policy\] max_rounds;"):
        policy.check(private, rules(max_rounds=3), file)
    with pytest.raises(RefusedError, match=r"\(site\.toml \[policy\] models;"):
        policy.check(private, rules(models=[]), file)  # nobody set it: the default decides


def test_a_key_of_the_same_name_in_another_table_is_not_the_line(
    tmp_path: Path, private: Study
) -> None:
    file = tmp_path / "site.toml"
    rule = '[[auto_approve]]\nname = "r"\nmax_rounds = 100\n'
    file.write_text(f"{rule}\n[policy] # ours\nmax_rounds = 3\n\n{rule}")
    with pytest.raises(RefusedError, match="line 6,"):
        policy.check(private, rules(max_rounds=3), file)


def test_the_line_reaches_the_coordinator(tmp_path: Path, private: Study) -> None:
    key = SigningKey.generate()
    site = make_site(tmp_path / "a", "a", key.public, policy={"max_rounds": "3"})
    lines = site.directory.config.read_text().splitlines()
    number = 1 + next(i for i, line in enumerate(lines) if line.startswith("max_rounds"))
    heard = Asker(key, site).invite(private)
    assert heard.rule == "policy.max_rounds"
    assert f"(site.toml line {number}, [policy] max_rounds;" in heard.message.explanation

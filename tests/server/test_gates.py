"""Each gate: what it must not let through, and what it must not make a fuss about."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.federation import PLAIN, PRIVATE, write_study

from cohortium.common.fairness.verdicts import Contrast, FairnessAudit, Invisible, Verdict
from cohortium.common.messages import Spent
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation
from cohortium.common.study import Study
from cohortium.server.gates import Findings, Flag, flags, ranges
from cohortium.server.store import RoundRecord

NOTHING = FairnessAudit(contrasts=(), extremes=(), invisible=())
TALLY = BinaryTally(
    n=60, positives=30, correct=50, tp=25, fp=5, tn=25, fn=5, log_loss=0.4, auroc=0.9
)
MEASURED = SiteEvaluation(overall=TALLY, groups={})
ALL = ("a", "b", "c")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, PRIVATE)


def spent(epsilon: float = 2.99, delta: float = 1e-5, lifetime: float = 2.99) -> Spent:
    return Spent(
        sampler="poisson",
        sample_rate=0.2,
        noise_multiplier=1.0,
        steps=20,
        delta=delta,
        epsilon=epsilon,
        lifetime_epsilon=lifetime,
        cap_epsilon=10.0,
        cap_delta=1e-5,
    )


def record(
    number: int,
    replied: tuple[str, ...] = ALL,
    measured: tuple[str, ...] = ALL,
    refused: Mapping[str, str] | None = None,
    accounts: Mapping[str, Spent] | None = None,
) -> RoundRecord:
    return RoundRecord(
        round=number,
        seconds=0.1,
        received={},
        replied=replied,
        missing=(),
        refused=refused or {},
        spent=dict.fromkeys(replied, spent()) if accounts is None else accounts,
        evaluations=dict.fromkeys(measured, MEASURED),
        summary=None,
    )


def four(**last: object) -> list[RoundRecord]:
    return [*(record(n) for n in (1, 2, 3)), record(4, **last)]  # type: ignore[arg-type]


def contrast(
    verdict: Verdict, site: str | None = None, level: str = "male", attribute: str = "sex"
) -> Contrast:
    return Contrast(
        attribute=attribute,
        level=level,
        reference="female",
        criterion="equal_opportunity",
        site=site,
        primary=site is None,
        margin=0.05,
        of=100,
        reference_of=120,
        value=0.6,
        reference_value=0.85,
        gap=-0.25,
        low=-0.36,
        high=-0.13,
        verdict=verdict,
    )


def audited(*contrasts: Contrast, invisible: tuple[Invisible, ...] = ()) -> FairnessAudit:
    return FairnessAudit(contrasts=contrasts, extremes=(), invisible=invisible)


def only(raised: tuple[Flag, ...]) -> Flag:
    assert len(raised) == 1, raised
    return raised[0]


def test_a_study_with_nothing_to_say_against_it_has_no_flag(study: Study) -> None:
    quiet = audited(contrast("within margin"), contrast("inconclusive"), contrast("not measured"))
    assert flags(study, Findings(four(), quiet)) == ()


def test_a_gap_is_a_flag_with_its_numbers(study: Study) -> None:
    flag = only(flags(study, Findings(four(), audited(contrast("GAP")))))
    assert (flag.gate, flag.site) == ("fairness", None)
    assert flag.text == (
        "sex: male against female, equal opportunity, over all sites: gap -0.250 "
        "(95% -0.360 to -0.130), margin 0.05; 0.600 of 100 against 0.850 of 120"
    )


def test_a_gap_at_one_site_is_a_flag_although_the_average_is_within_margin(study: Study) -> None:
    findings = Findings(four(), audited(contrast("within margin"), contrast("GAP", "b")))
    assert only(flags(study, findings)).text.startswith("b: sex: male against female")


def test_the_same_finding_has_the_same_name_and_another_number_another(study: Study) -> None:
    gap = contrast("GAP")
    (one,) = flags(study, Findings(four(), audited(gap)))
    (same,) = flags(study, Findings(four(), audited(gap, contrast("within margin", "a"))))
    (other,) = flags(study, Findings(four(), audited(gap.model_copy(update={"gap": -0.251}))))
    elsewhere = study.model_copy(update={"name": "another"})
    (foreign,) = flags(elsewhere, Findings(four(), audited(gap)))
    assert one == same
    assert len({one.id, other.id, foreign.id}) == 3


def test_a_group_that_no_site_could_show_is_a_flag_and_one_hidden_at_a_site_is_not(
    study: Study,
) -> None:
    unseen = (
        Invisible(attribute="age", level="<50", site=None, reason="seen at no site"),
        Invisible(attribute="sex", level="male", site="a", reason="fewer than 10"),
    )
    flag = only(flags(study, Findings(four(), audited(invisible=unseen))))
    assert flag.text == "age: <50 was measured at no site: seen at no site"


def test_a_site_that_trained_and_measured_nothing_is_a_flag(study: Study) -> None:
    flag = only(flags(study, Findings(four(measured=("a", "c")), NOTHING)))
    assert (flag.gate, flag.site) == ("measured", "b")


def test_an_evaluation_of_an_earlier_model_is_none_of_the_final_one(study: Study) -> None:
    raised = flags(study, Findings(four(measured=()), NOTHING))
    assert [(flag.gate, flag.site) for flag in raised] == [("measured", site) for site in ALL]


def test_a_site_that_was_to_validate_and_did_not_is_a_flag(study: Study) -> None:
    sites = study.sites.model_copy(update={"evaluate_only": ("c",)})
    outside = study.model_copy(update={"sites": sites})
    rounds = [record(n, replied=("a", "b"), measured=("a", "b")) for n in (1, 2, 3, 4)]
    flag = only(flags(outside, Findings(rounds, NOTHING)))
    assert flag.text == "c: was to validate the model and did not measure it"


def test_a_site_that_never_took_part_is_no_flag(study: Study) -> None:
    rounds = [record(n, replied=("a", "b"), measured=("a", "b")) for n in (1, 2, 3, 4)]
    assert flags(study, Findings(rounds, NOTHING)) == ()


@pytest.mark.parametrize(
    ("account", "said"),
    [
        (spent(epsilon=3.01), "spent more than was promised and approved: epsilon 3.0100"),
        (spent(delta=1e-4), "spent more than was promised and approved: epsilon 2.9900 at"),
        (spent(lifetime=10.5), "is above its own lifetime cap: epsilon 10.5000, cap 10"),
    ],
)
def test_epsilon_above_what_was_approved_is_a_flag(study: Study, account: Spent, said: str) -> None:
    accounts = {"a": spent(), "b": account, "c": spent(epsilon=3.0)}
    flag = only(flags(study, Findings(four(accounts=accounts), NOTHING)))
    assert flag.text.startswith(f"b: {said}")


def test_a_site_without_any_account_is_a_flag_in_a_private_study_alone(
    study: Study, tmp_path: Path
) -> None:
    rounds = [record(n, accounts={"a": spent(), "b": spent()}) for n in (1, 2, 3, 4)]
    assert only(flags(study, Findings(rounds, NOTHING))).site == "c"
    (tmp_path / "plain").mkdir()
    plain = write_study(tmp_path / "plain", PLAIN)
    assert flags(plain, Findings([record(n, accounts={}) for n in (1, 2, 3, 4)], NOTHING)) == ()


def test_replies_that_were_left_out_are_a_flag_by_site(study: Study) -> None:
    rounds = four()
    for place in (0, 2):
        refused = {"b": "reply.protocol: an evaluation that no site makes"}
        rounds[place] = record(place + 1, refused=refused)
    rounds[1] = record(
        2, refused={"c": "reply.signature: an envelope is not signed", "a": "x.y: z"}
    )
    implausible, unsigned = flags(study, Findings(rounds, NOTHING, forged={"c": 2}))
    assert implausible.text == (
        "b: replies were left out as implausible: in round 1, 3: an evaluation that no site makes"
    )
    assert unsigned.text == (
        "c: replies in its name were not signed by its key: 2 in all, none verified in round 2"
    )


def test_a_forged_reply_is_a_flag_although_the_true_one_came(study: Study) -> None:
    flag = only(flags(study, Findings(four(), NOTHING, forged={"a": 1})))
    assert (flag.gate, flag.site, flag.numbers) == ("quarantine", "a", "1 in all")


def test_a_gate_that_the_study_does_not_declare_raises_nothing(study: Study) -> None:
    none = study.model_copy(update={"release": study.release.model_copy(update={"gates": ()})})
    findings = Findings(four(measured=(), accounts={}), audited(contrast("GAP")), forged={"a": 1})
    assert flags(none, findings) == ()


def test_withdrawn_data_is_a_flag_whatever_gates_are_declared(study: Study) -> None:
    none = study.model_copy(update={"release": study.release.model_copy(update={"gates": ()})})
    rounds = four()
    rounds[3] = record(4, replied=("a", "b"), refused={"c": "data.withdrawn: by this site"})
    flag = only(flags(none, Findings(rounds, NOTHING)))
    assert flag.text == (
        "c: withdrew its data, which this model has learnt from: "
        "in the models of rounds 1 to 3 and later"
    )
    later = Findings(four(), NOTHING, withdrawn={"a": "rounds 1 to 4 and later"})
    assert only(flags(none, later)).site == "a"


def test_rounds_are_said_as_people_say_them() -> None:
    assert ranges([3, 1, 2, 7, 9, 10]) == "1 to 3, 7, 9 to 10"

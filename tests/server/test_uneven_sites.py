"""Sites that lack an attribute, a level or an outcome: said so there, and measured elsewhere."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.federation import FULL, approve, federate, write_study

from cohortium.common.fairness.audit import audit
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation, Tally
from cohortium.server.coordinator import run_study

Change = Callable[[str], str]  # of one line of the table: age,sex,marker,ill


def binary(tally: Tally) -> BinaryTally:
    assert isinstance(tally, BinaryTally)
    return tally


def without_sex(line: str) -> str:
    age, _, marker, ill = line.split(",")
    return f"{age},,{marker},{ill}"


def only_women(line: str) -> str:
    age, _, marker, ill = line.split(",")
    return f"{age},0,{marker},{ill}"


def all_well(line: str) -> str:
    return line[: line.rindex(",")] + ",0"


def evaluated(tmp_path: Path, change: Change, *parts: str) -> Mapping[str, SiteEvaluation]:
    """The last evaluations of a study of three sites, of which `c` has a changed table."""
    federation = federate(tmp_path / "f", patients=300)
    study = write_study(tmp_path, FULL, *parts)
    table = federation.sites["c"].directory.root / "ward.csv"
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head, *map(change, rows)]) + "\n")
    for site in federation.sites.values():
        approve(site, study)
    run_study(study, federation.desk(study))
    found = federation.store.rounds(study.digest)[-1].evaluations
    federation.close()
    findings = audit(study, found)
    by_sex = [one for one in findings.contrasts if one.attribute == "sex" and one.site != "c"]
    assert by_sex
    assert any(one.verdict != "not measured" for one in by_sex)
    return found


def test_an_attribute_that_nobody_has_at_a_site_is_unknown_there_and_measured_elsewhere(
    tmp_path: Path,
) -> None:
    found = evaluated(tmp_path, without_sex)["c"]
    levels = {name: binary(tally) for name, tally in found.groups["sex"].items()}
    assert set(levels) == {"female", "male", "unknown"}
    assert (levels["female"].n, levels["female"].reason) == (0, "no patients")
    assert levels["unknown"].n == binary(found.overall).n


def test_a_level_without_patients_counts_none_and_says_so(tmp_path: Path) -> None:
    found = evaluated(tmp_path, only_women)["c"]
    men = binary(found.groups["sex"]["male"])
    assert (men.n, men.tp, men.auroc, men.reason) == (0, 0, None, "no patients")


def test_a_site_without_the_outcome_trains_on_nobody_and_the_audit_is_done(tmp_path: Path) -> None:
    """Its training patients all have one label, which the study refuses; two sites are enough."""
    assert set(evaluated(tmp_path, all_well)) == {"a", "b"}

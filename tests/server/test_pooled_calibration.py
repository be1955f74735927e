"""The final model's calibration over real sites: exact, or null with a reason; never in the way."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tests.federation import Federation, InProcessSites, approve, federate, write_study

from cohortium.client.calibration import groups_of
from cohortium.client.refusal import refuse
from cohortium.client.scoring import scores
from cohortium.client.site import Site
from cohortium.client.workshop import Inline
from cohortium.common.document import canonical, parse_json
from cohortium.common.envelope import Header, seal, unseal
from cohortium.common.errors import ProtocolError, UnreachableError
from cohortium.common.messages import EMPTY, Calibrate, Calibrated, pack, unpack
from cohortium.common.metrics.calibration import (
    EVERYBODY,
    Group,
    PooledCalibration,
    PooledFit,
    Sums,
    flat,
    logits,
)
from cohortium.common.metrics.tallies import BinaryTally
from cohortium.common.study import Study
from cohortium.server.calibration import LOST, NOT_SHOWN, check_sums
from cohortium.server.coordinator import run_study
from cohortium.server.outcome import final_vector
from cohortium.server.store import RoundRecord

TRAINING = """
[training]
rounds = 2
batches = "shuffle"
batch_size = 16
local_steps = 20
learning_rate = 0.5

[privacy]
mechanism = "none"
"""
CROSSED = "\n[strategy]\naverage_last = 0.5\n"


def approved(
    root: Path, *parts: str, cell: int = 0, patients: int = 200, deadline: float = 1.0
) -> tuple[Study, Federation]:
    root.mkdir(exist_ok=True)
    study = write_study(root, TRAINING, *parts, round_deadline=deadline)
    policy = {"allow_unprotected": "true", "minimum_cell": str(cell)}
    federation = federate(root, policy=policy, patients=patients)
    for site in federation.sites.values():
        approve(site, study)
    return study, federation


def run(study: Study, federation: Federation) -> RoundRecord:
    run_study(study, federation.desk(study))
    return federation.store.rounds(study.digest)[-1]


def fits(record: RoundRecord) -> dict[Group, PooledFit]:
    assert isinstance(record.calibration, PooledCalibration)
    return flat(record.calibration.overall, record.calibration.groups)


@dataclass(frozen=True)
class Rows:
    """Everybody's held-out scores, outcome and groups at one site."""

    x: np.ndarray[tuple[int], np.dtype[np.float64]]
    positive: np.ndarray[tuple[int], np.dtype[np.bool_]]
    groups: Mapping[Group, np.ndarray[tuple[int], np.dtype[np.bool_]]]


def rows(study: Study, federation: Federation) -> dict[str, Rows]:
    """Put together as no hospital may."""
    model = final_vector(federation.store.study(study.name), federation.store)
    found = {}
    for name, site in federation.sites.items():
        assert isinstance(site.workshop, Inline)
        cohort = Inline(site.name, "cpu", site.directory.load_dataset)._cohort(study, None)
        x = logits(scores(study, model, cohort.test_features))
        groups = {EVERYBODY: np.ones(len(x), bool)} | groups_of(study, cohort.test_attributes)
        found[name] = Rows(x, cohort.test_labels > 0.5, groups)
    return found


def oracle(tables: Mapping[str, Rows], group: Group, sites: tuple[str, ...]) -> tuple[float, float]:
    x = np.concatenate([tables[s].x[tables[s].groups[group]] for s in sites])
    positive = np.concatenate([tables[s].positive[tables[s].groups[group]] for s in sites])
    fit = LogisticRegression(C=np.inf, tol=1e-13, max_iter=1000, solver="newton-cholesky")
    fit.fit(x[:, None], positive)
    return float(fit.intercept_[0]), float(fit.coef_[0, 0])


def test_the_calibration_is_that_of_all_sites_rows_put_together(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, CROSSED)
    record = run(study, federation)
    tables = rows(study, federation)
    assert set(fits(record)) == set(tables["a"].groups)
    for group, pooled in fits(record).items():
        assert pooled.sites == ("a", "b", "c")
        assert pooled.fit is not None, (group, pooled.reason)
        found = (pooled.fit.intercept, pooled.fit.slope)
        assert found == pytest.approx(oracle(tables, group, pooled.sites), abs=1e-8), group
        assert pooled.slope is not None
        assert pooled.slope[0] < pooled.fit.slope < pooled.slope[1]
    assert "calibrated" in record.received["a"]


def test_with_small_cells_hidden_it_is_off_by_no_more_than_rounding_can_move_it(
    tmp_path: Path,
) -> None:
    study, federation = approved(tmp_path, cell=10, patients=700)
    found = fits(run(study, federation))
    tables = rows(study, federation)
    fitted = {group: pooled for group, pooled in found.items() if pooled.fit is not None}
    assert EVERYBODY in fitted
    for group, pooled in fitted.items():
        assert pooled.fit is not None
        _, slope = oracle(tables, group, pooled.sites)
        spread = pooled.fit.slope_variance
        reach = len(pooled.sites) / 2 * (spread + abs(pooled.fit.covariance))
        assert abs(pooled.fit.slope - slope) <= reach + 0.05 * spread**0.5, group
    for group in found.keys() - fitted.keys():
        assert found[group].reason in (NOT_SHOWN, LOST)


def test_scores_that_separate_the_outcome_have_no_slope_and_the_report_says_why(
    tmp_path: Path,
) -> None:
    study, federation = approved(tmp_path, patients=60)
    for site in federation.sites.values():
        path = site.directory.load_dataset(study.data.dataset).path
        lines = path.read_text().splitlines()
        apart = [f"{'20,0,0.00,0' if k % 2 else '80,1,10.00,1'}" for k in range(len(lines) - 1)]
        path.write_text("\n".join([lines[0], *apart]) + "\n")
    for site in federation.sites.values():
        approve(site, study)
    overall = fits(run(study, federation))[EVERYBODY]
    assert overall.fit is None
    assert "separate" in overall.reason


def test_a_study_without_curves_asks_nothing_and_earlier_records_are_still_read(
    tmp_path: Path,
) -> None:
    study, federation = approved(tmp_path, "[evaluation]\ncurves = false\n")
    record = run(study, federation)
    assert record.calibration is None
    assert "calibrated" not in record.received["a"]
    text = canonical(record).decode()
    older = text.replace('"calibration":null,', "")
    assert older != text
    assert parse_json(older.encode(), RoundRecord, "older") == record


# ------------------------------------------------------------------ sites that are in the way


@dataclass
class Odd:
    """Sites of which `b` answers a calibration's steps in a way of its own, or not at all."""

    honest: InProcessSites
    from_step: int
    how: str

    def ask(
        self, heads: Mapping[str, bytes], body: bytes, deadline_s: float
    ) -> Iterator[tuple[str, bytes]]:
        for name, raw in self.honest.ask(heads, body, deadline_s):
            site = self.honest.sites[name]
            asked, question = unseal(heads[name] + bytes(body), site.coordinator_key)
            if name != "b" or asked.kind != "calibrate":
                yield name, raw
                continue
            step = unpack(question, Calibrate)[0].step
            if step < self.from_step:
                yield name, raw
            elif self.how != "silent":
                yield name, self._odd(site, raw)

    def _odd(self, site: Site, raw: bytes) -> bytes:
        header, said = unseal(raw, site.key.public)
        if self.how == "old":
            older = ProtocolError("this site knows no such message")
            return sealed(site, header, "refusal", refuse(site, header, older).body)
        message, _ = unpack(said, Calibrated)
        assert message.overall is not None
        lie = message.overall.model_copy(update={"gradient": (1e9, 0.0)})
        changed = message.model_copy(update={"overall": lie})
        return sealed(site, header, "calibrated", pack(changed, EMPTY))


def sealed(site: Site, header: Header, kind: str, body: bytes) -> bytes:
    return seal(header.model_copy(update={"kind": kind}), body, site.key)


@pytest.mark.parametrize(
    ("how", "from_step", "rule"),
    [("silent", 3, ""), ("old", 1, "protocol"), ("lies", 2, "reply.protocol")],
)
def test_a_site_that_does_not_answer_rightly_is_left_out_and_stops_nobody(
    tmp_path: Path, how: str, from_step: int, rule: str
) -> None:
    study, federation = approved(tmp_path, deadline=0.3)
    federation.transport = Odd(federation.transport, from_step, how)  # type: ignore[assignment]
    record = run(study, federation)
    tables = rows(study, federation)
    overall = fits(record)[EVERYBODY]
    assert overall.sites == ("a", "c")
    assert overall.fit is not None
    found = (overall.fit.intercept, overall.fit.slope)
    assert found == pytest.approx(oracle(tables, EVERYBODY, ("a", "c")), abs=1e-8)
    assert record.calibration is not None
    assert record.calibration.refused.get("b", "").split(":")[0] == rule
    assert "b" in record.evaluations
    assert "b" not in record.refused


TALLY = BinaryTally(
    n=100, positives=40, correct=None, tp=None, fp=None, tn=None, fn=None, log_loss=0.5, auroc=None
)
TRUE = Sums(gradient=(-3.0, 20.0), information=(20.0, 4.0, 45.0))


@pytest.mark.parametrize(
    "sums",
    [
        TRUE.model_copy(update={"gradient": (101.0, 0.0)}),
        TRUE.model_copy(update={"gradient": (0.0, -1400.0)}),
        TRUE.model_copy(update={"information": (26.0, 4.0, 45.0)}),
        TRUE.model_copy(update={"information": (20.0, 400.0, 45.0)}),
        TRUE.model_copy(update={"information": (-5.0, 0.0, 45.0)}),
        TRUE.model_copy(update={"information": (20.0, 0.0, -1.0)}),
        TRUE.model_copy(update={"rounding": 1e9}),
    ],
)
def test_sums_that_a_hundred_patients_cannot_give_are_no_answer(sums: Sums) -> None:
    check_sums({EVERYBODY: TALLY}, Calibrated(overall=TRUE, groups={}))
    with pytest.raises(ProtocolError):
        check_sums({EVERYBODY: TALLY}, Calibrated(overall=sums, groups={}))


def test_sums_of_a_group_whose_means_are_hidden_are_no_answer() -> None:
    with pytest.raises(ProtocolError):
        check_sums({EVERYBODY: TALLY}, Calibrated(overall=TRUE, groups={"sex": {"male": TRUE}}))


# ------------------------------------------------------------------ a coordinator that is killed


@dataclass
class Dying:
    """Sites whose coordinator loses its transport at the n-th calibration question's b."""

    honest: InProcessSites
    at: int
    asked: int = 0

    def ask(
        self, heads: Mapping[str, bytes], body: bytes, deadline_s: float
    ) -> Iterator[tuple[str, bytes]]:
        for name, raw in self.honest.ask(heads, body, deadline_s):
            header, _ = unseal(heads[name] + bytes(body), self.honest.sites[name].coordinator_key)
            if header.kind == "calibrate" and name == "b":
                self.asked += 1
                if self.asked == self.at:
                    raise UnreachableError("killed")
            yield name, raw


def test_a_coordinator_killed_between_steps_comes_to_the_same_calibration(tmp_path: Path) -> None:
    study, calm = approved(tmp_path / "calm")
    undisturbed = run(study, calm).calibration
    assert undisturbed is not None
    study, federation = approved(tmp_path / "killed")
    honest = federation.transport
    for at in range(1, undisturbed.steps + 1):
        federation.transport = Dying(honest, at)  # type: ignore[assignment]
        with pytest.raises(UnreachableError):
            run(study, federation)
    federation.transport = honest
    assert run(study, federation).calibration == undisturbed
    for site in federation.sites.values():
        events = [event.action for event in site.log.events()]
        assert events.count("evaluation.calibrated") == undisturbed.steps

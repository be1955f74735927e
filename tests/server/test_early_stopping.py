"""Training stops when validation patients no longer gain, with the best model, and says why."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.asking import Asker
from tests.federation import PLAIN, Federation, approve, federate, write_study

from cohortium.client.cohort import load_table, prepare
from cohortium.client.validation import validation_loss
from cohortium.common.audit.events import Event
from cohortium.common.messages import Validate, Validated
from cohortium.common.preprocessing.encode import encode
from cohortium.common.study import Study, load_study
from cohortium.server import early_stopping
from cohortium.server.aggregation.optimizer import final_model
from cohortium.server.checkpoints import Checkpoints
from cohortium.server.coordinator import initial_model, run_study
from cohortium.server.early_stopping import Standing, better, mean_loss
from cohortium.server.progress import line

ALLOWED = {"allow_unprotected": "true"}
EARLY = """
[model]
name = "mlp"
hidden = [16]
"""


def write_early(tmp_path: Path, rounds: int = 30, patience: int = 2, rate: float = 1.5) -> Study:
    """A study that learns in few rounds, and then only by heart."""
    write_study(tmp_path, PLAIN, "[evaluation]\nevery = 100\n")
    text = (tmp_path / "study.toml").read_text()
    text = text.replace("rounds = 4", f"rounds = {rounds}\npatience = {patience}")
    text = text.replace("learning_rate = 0.2", f"learning_rate = {rate}")
    text = text.replace("local_steps = 10", "local_steps = 40")
    text = text.replace('[model]\nname = "logistic"\n', EARLY)
    text = text.replace("test_fraction = 0.3", "test_fraction = 0.3\nvalidation_fraction = 0.4")
    (tmp_path / "study.toml").write_text(text)
    return load_study(tmp_path / "study.toml")


def run(federation: Federation, study: Study) -> np.ndarray:
    for site in federation.sites.values():
        approve(site, study)
    return run_study(study, federation.desk(study))


Ended = tuple[Federation, Study, np.ndarray]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A study that nobody disturbed, and its model."""
    root = tmp_path_factory.mktemp("ended")
    federation, study = federate(root, policy=ALLOWED), write_early(root)
    return federation, study, run(federation, study)


def test_the_study_stops_and_its_model_is_that_of_the_best_round(ended: Ended) -> None:
    federation, study, model = ended
    *rounds, last = federation.store.rounds(study.digest)
    losses = {record.round: mean_loss(record.validation) for record in rounds}
    stopped_after, best = rounds[-1].round, last.best
    assert [record.round for record in rounds] == list(range(1, stopped_after + 1))
    assert last.round == 30 > stopped_after == best + 2
    assert losses[best] == min(loss for loss in losses.values() if loss is not None)
    checkpoints = Checkpoints(federation.store.database, study.digest)
    assert np.array_equal(model, final_model(checkpoints.load(best)))
    assert np.array_equal(model, final_model(checkpoints.load(30)))
    assert not np.array_equal(model, final_model(checkpoints.load(stopped_after)))
    assert (last.replied, last.missing, last.spent) == ((), (), {})
    assert set(last.evaluations) == {"a", "b", "c"}
    assert last.calibration is not None


def test_why_it_stopped_is_said_in_store_log_and_progress(ended: Ended) -> None:
    federation, study, _ = ended
    last = federation.store.rounds(study.digest)[-1]
    says = f"no lower loss on validation patients in 2 rounds since round {last.best}"
    assert says in last.stopped
    row = federation.store.study(study.name)
    assert row.state == "completed"
    assert says in row.cause
    events: list[Event] = list(federation.log.events())
    assert says in str([e.reason for e in events if e.action == "round.aggregated"][-1])
    assert says in str([e.reason for e in events if e.action == "run.completed"])
    document, text = line(study, last)
    assert says in text
    assert document["stopped"] == last.stopped
    left = {e.action for e in federation.sites["a"].log.events()}
    assert "evaluation.validated" in left


@pytest.mark.parametrize("killed", ["while training", "at the end"])
def test_a_coordinator_that_was_killed_stops_where_it_would_have(
    ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    undisturbed, study, expected = ended
    stopped = undisturbed.store.rounds(study.digest)[-2].round
    federation = federate(tmp_path, policy=ALLOWED)
    kill_in = stopped - 1 if killed == "while training" else 30
    keep = Checkpoints.keep

    def die(self: Checkpoints, round: int, *rest: Any) -> None:
        if round == kill_in:
            raise KeyboardInterrupt
        keep(self, round, *rest)

    monkeypatch.setattr(Checkpoints, "keep", die)
    with pytest.raises(KeyboardInterrupt):
        run(federation, study)
    monkeypatch.undo()
    model = run_study(study, federation.desk(study))
    assert np.array_equal(model, expected)
    assert [r.round for r in federation.store.rounds(study.digest)] == [
        r.round for r in undisturbed.store.rounds(study.digest)
    ]


def test_without_a_stop_the_best_round_still_gives_the_model(tmp_path: Path) -> None:
    federation = federate(tmp_path, policy=ALLOWED)
    study = write_early(tmp_path, rounds=5, patience=4)
    model = run(federation, study)
    records = federation.store.rounds(study.digest)
    losses = [mean_loss(record.validation) or 9.0 for record in records]
    best = 1 + int(np.argmin(losses))
    assert [record.round for record in records] == [1, 2, 3, 4, 5]
    assert (records[-1].best, records[-1].stopped) == (best, "")
    checkpoints = Checkpoints(federation.store.database, study.digest)
    assert np.array_equal(model, checkpoints.load(best).model)


def test_where_too_few_patients_may_be_told_training_goes_on(tmp_path: Path) -> None:
    federation = federate(tmp_path, policy={**ALLOWED, "minimum_cell": "150"})
    study = write_early(tmp_path, rounds=4, patience=1)
    run(federation, study)
    records = federation.store.rounds(study.digest)
    assert [record.round for record in records] == [1, 2, 3, 4]
    assert {one.loss for record in records for one in record.validation.values()} == {None}
    assert (records[-1].best, records[-1].stopped) == (0, "")


def test_validation_patients_neither_train_nor_test(tmp_path: Path) -> None:
    federation = federate(tmp_path, names=("a",), policy=ALLOWED)
    study = write_early(tmp_path)
    site = federation.sites["a"]
    table = load_table(study, site.directory.load_dataset("ward"), "a")
    encoded = encode(table, study, "a")
    sides = encoded.train.astype(int) + encoded.validation
    assert sides.max() == 1
    before = encode(
        table, study.model_copy(update={"split": study.split.model_copy(update=NOBODY)}), "a"
    )
    assert np.array_equal(before.train, encoded.train | encoded.validation)
    share = encoded.validation.sum() / before.train.sum()
    assert 0.25 < share < 0.55
    cohort = prepare(table, study, "a")
    sizes = len(cohort.labels), len(cohort.validation_labels), len(cohort.test_labels)
    assert sum(sizes) == table.rows


NOBODY = {"validation_fraction": None}


def test_a_site_answers_only_where_the_study_stops_early_and_rounds_what_it_says(
    tmp_path: Path,
) -> None:
    federation = federate(tmp_path, names=("a", "b", "c"), policy=ALLOWED)
    site = federation.sites["a"]
    asker, study = Asker(federation.key, site), write_early(tmp_path)
    asker.invite(study)
    approve(site, study)
    asker.invite(study)
    said = asker.ask(study, Validate(), 1, initial_model(study)).message
    assert isinstance(said, Validated)
    cohort = prepare(load_table(study, site.directory.load_dataset("ward"), "a"), study, "a")
    exact = validation_loss(study, cohort, initial_model(study), 0)
    assert said.loss == exact == round(said.loss or 0.0, 3)
    plain = write_study(tmp_path, PLAIN, name="other")
    asker.invite(plain)
    approve(site, plain)
    asker.invite(plain)
    assert asker.ask(plain, Validate(), 1, initial_model(plain)).rule == "study.validation"


def told(**losses: float | None) -> dict[str, Validated]:
    weights = {"a": 1.0, "b": 3.0}
    return {
        site: Validated(loss=loss, weight=weights.get(site, 1.0)) for site, loss in losses.items()
    }


def test_losses_are_weighed_and_compared_over_the_same_sites() -> None:
    assert mean_loss(told(a=1.0, b=2.0)) == 1.75
    assert mean_loss(told(a=None)) is None
    assert better(told(a=0.9, b=2.0), told(a=1.0, b=2.0))
    assert not better(told(a=1.0), told(a=1.0))
    # b, who is worse off, is away: that is no progress
    assert not better(told(a=1.0), told(a=1.0, b=9.0))
    assert better(told(c=1.0), told(a=2.0))


def test_a_round_that_nobody_can_tell_of_neither_counts_nor_resets() -> None:
    standing = Standing()
    for number, losses in enumerate((told(a=1.0), told(a=1.5), told(a=None), told(a=1.2)), 1):
        standing = standing.after(number, losses)
    assert (standing.best, standing.since) == (1, 2)


def test_a_study_without_patience_never_looks(tmp_path: Path) -> None:
    federation = federate(tmp_path, policy=ALLOWED)
    study = write_study(tmp_path, PLAIN)
    run(federation, study)
    assert not early_stopping.reason(study, federation.store)
    assert all(not record.validation for record in federation.store.rounds(study.digest))

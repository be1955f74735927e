"""The ledger: what a dataset gave is never forgotten, never undercounted, never over the cap."""

import math
from pathlib import Path

import pytest
from tests.asking import Asker
from tests.federation import FULL, SCHEMA, approve, federate, make_site, write_study

from cohortium.client.budget import Ledger
from cohortium.client.config import Dataset, SiteDir
from cohortium.client.database import open_site_database
from cohortium.client.ledger_rows import Spending
from cohortium.common.database import Database
from cohortium.common.errors import CohortiumError, RefusedError
from cohortium.common.identity import SigningKey
from cohortium.common.privacy import accounting
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.ledger_row import LedgerRow
from cohortium.common.privacy.plan import planned
from cohortium.common.schema import load_schema
from cohortium.server.coordinator import run_study

STUDY, OTHER = "5" * 64, "0" * 64


def gaussian(noise: float, steps: int = 1) -> Mechanism:
    return Mechanism(sampler="full-batch", sample_rate=1.0, noise_multiplier=noise, steps=steps)


def pay(ledger: Ledger, study: str, round: int, mechanism: Mechanism) -> LedgerRow:
    """What a site "a" does, but for the transaction around it."""
    spending = Spending("a", study, round, mechanism, 1e-5, 1.0, "flat", 0)
    return ledger.spend(spending).row


def dataset(folder: Path, name: str = "ward", cap: float = 2.0, delta: float = 1e-5) -> Dataset:
    (folder / "schema.toml").write_text(SCHEMA)
    model = load_schema(folder / "schema.toml")
    return Dataset(name, folder / "ward.csv", model, epsilon_cap=cap, delta_cap=delta)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return open_site_database(tmp_path / "site.db")


def limit_noise(cap: float, delta: float) -> float:
    """Noise of a single Gaussian that uses the whole cap: order / (2 sigma^2) = limit."""
    order = accounting.filter_order(cap, delta)
    return math.sqrt(order / (2 * accounting.filter_limit(cap, delta, order)))


def test_a_plan_exactly_at_the_cap_fits_and_anything_more_does_not(
    tmp_path: Path, database: Database
) -> None:
    ledger = Ledger(database, dataset(tmp_path))
    sigma = limit_noise(2.0, 1e-5)
    ledger.check([gaussian(sigma * (1 + 1e-12))])
    with pytest.raises(RefusedError, match=r"privacy\.cap"):
        ledger.check([gaussian(sigma * (1 - 1e-9))])
    pay(ledger, STUDY, 1, gaussian(sigma * (1 + 1e-12)))
    with pytest.raises(RefusedError, match=r"privacy\.cap"):
        ledger.check([gaussian(1e4)])


def test_what_the_filter_lets_through_is_within_the_cap_as_reported(
    tmp_path: Path, database: Database
) -> None:
    ledger = Ledger(database, dataset(tmp_path))
    sigma = 3 * limit_noise(2.0, 1e-5)
    for round in range(1, 10):  # nine times a ninth of the cap
        pay(ledger, STUDY, round, gaussian(sigma * (1 + 1e-12)))
    with pytest.raises(RefusedError):
        pay(ledger, STUDY, 10, gaussian(sigma))
    assert len(ledger.entries()) == 9
    assert 0.5 < ledger.balance().epsilon_spent <= 2.0


def test_nine_rounds_cost_what_one_with_a_third_of_the_noise_costs(
    tmp_path: Path, database: Database
) -> None:
    many, one = Ledger(database, dataset(tmp_path)), Ledger(database, dataset(tmp_path, "one"))
    for round in range(1, 10):
        pay(many, STUDY, round, gaussian(30.0))
    pay(one, OTHER, 1, gaussian(10.0))
    assert many.balance().epsilon_spent == pytest.approx(one.balance().epsilon_spent, rel=1e-9)


def test_two_studies_on_one_dataset_compose_and_are_not_added(
    tmp_path: Path, database: Database
) -> None:
    ledger = Ledger(database, dataset(tmp_path))
    pay(ledger, STUDY, 1, gaussian(5.0))
    pay(ledger, OTHER, 1, gaussian(5.0))
    balance = ledger.balance()
    first, second = balance.by_study[STUDY], balance.by_study[OTHER]
    assert first == second
    assert first < balance.epsilon_spent < first + second
    assert balance.epsilon_spent == pytest.approx(
        accounting.epsilon([gaussian(5.0, steps=2)], 1e-5), rel=1e-9
    )


def test_another_dataset_has_its_own_account(tmp_path: Path, database: Database) -> None:
    ward, clinic = (Ledger(database, dataset(tmp_path, name)) for name in ("ward", "clinic"))
    pay(ward, STUDY, 1, gaussian(5.0))
    assert clinic.balance().epsilon_spent == 0.0
    assert clinic.entries() == []


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE ledger SET mechanism = '{}'",
        "DELETE FROM ledger",
        "REPLACE INTO ledger VALUES (1, 'ward', 'study', 1, '{}', 0, 'training', '')",
    ],
)
def test_a_row_can_be_neither_changed_nor_deleted_nor_replaced(
    tmp_path: Path, database: Database, sql: str
) -> None:
    ledger = Ledger(database, dataset(tmp_path))
    pay(ledger, STUDY, 1, gaussian(5.0))
    before = ledger.entries()
    with pytest.raises(CohortiumError, match="append-only"):
        database.execute(sql)
    assert ledger.entries() == before


def test_a_round_cannot_be_paid_for_twice(tmp_path: Path, database: Database) -> None:
    ledger = Ledger(database, dataset(tmp_path))
    pay(ledger, STUDY, 1, gaussian(5.0))
    with pytest.raises(CohortiumError, match="write refused"):
        pay(ledger, STUDY, 1, gaussian(5.0))
    assert len(ledger.entries()) == 1


def test_the_ledger_survives_reopening_to_the_last_bit(tmp_path: Path, database: Database) -> None:
    chosen = dataset(tmp_path)
    ledger = Ledger(database, chosen)
    odd = Mechanism(sampler="poisson", sample_rate=0.1 + 0.2, noise_multiplier=7.1 / 3, steps=3)
    pay(ledger, STUDY, 1, odd)
    entries, balance = ledger.entries(), ledger.balance()
    database.close()
    again = Ledger(open_site_database(tmp_path / "site.db"), chosen)
    assert again.entries() == entries
    assert again.entries()[0].mechanism == odd
    assert again.balance() == balance


def test_a_delta_laxer_than_the_datasets_is_refused(tmp_path: Path) -> None:
    key = SigningKey.generate()
    site = make_site(tmp_path / "a", "a", key.public)
    lax = write_study(tmp_path, FULL.replace("1e-5", "2e-5"))
    heard = Asker(key, site).invite(lax)
    assert heard.rule == "privacy.delta"
    assert "the coordinator must lower it" in heard.message.explanation


def test_a_study_that_could_never_fit_is_refused_before_a_person_is_asked(tmp_path: Path) -> None:
    key = SigningKey.generate()
    site = make_site(tmp_path / "a", "a", key.public, epsilon_cap=2.9)
    heard = Asker(key, site).invite(write_study(tmp_path, FULL))
    assert heard.rule == "privacy.cap"
    *_, last = site.log.events()
    assert (last.action, last.outcome) == ("privacy.cap.hit", "denied")
    assert "epsilon_cap in the dataset's file" in heard.message.explanation


def test_a_cap_too_small_for_anything_is_a_refusal_and_no_crash(tmp_path: Path) -> None:
    key = SigningKey.generate()
    site = make_site(tmp_path / "a", "a", key.public, epsilon_cap=1e-9)
    assert Asker(key, site).invite(write_study(tmp_path, FULL)).rule


def test_a_cap_lowered_under_way_refuses_there_and_the_study_goes_on_with_the_others(
    tmp_path: Path,
) -> None:
    study = write_study(tmp_path, FULL)
    federation = federate(tmp_path)
    for site in federation.sites.values():
        approve(site, study)
    directory = SiteDir(tmp_path / "b")
    text = directory.dataset("ward").read_text()
    ask = federation.transport.ask
    asked = 0

    def lower(*given: object) -> object:
        nonlocal asked
        asked += 1
        if asked == 4:  # invite, train, evaluate, then round 2
            directory.dataset("ward").write_text(text.replace("10.0", "1.5"))
        return ask(*given)  # type: ignore[arg-type]

    federation.transport.ask = lower  # type: ignore[assignment,method-assign]
    run_study(study, federation.desk(study))
    first, second, third = federation.store.rounds(study.digest)
    assert first.replied == ("a", "b", "c")
    assert second.replied == third.replied == ("a", "c")
    assert second.refused["b"].startswith("privacy.cap: ")
    assert third.refused == {}
    rows = {name: len(s.ledger(study).entries()) for name, s in federation.sites.items()}
    assert rows == {"a": 3, "b": 1, "c": 3}
    assert federation.store.study(study.name).state == "completed"


def test_what_sites_report_at_the_end_is_what_their_ledgers_say_and_within_the_study(
    tmp_path: Path,
) -> None:
    study = write_study(tmp_path, FULL)
    federation = federate(tmp_path)
    for site in federation.sites.values():
        approve(site, study)
    run_study(study, federation.desk(study))
    *_, last = federation.store.rounds(study.digest)
    plan = planned(study, study.training.rounds)
    assert plan is not None
    for name, site in federation.sites.items():
        balance = site.ledger(study).balance()
        assert last.spent[name].epsilon == balance.epsilon_spent <= 3.0
        assert balance.epsilon_spent == pytest.approx(accounting.epsilon([plan], 1e-5), rel=1e-9)

"""A ledger computed again by a stranger: every number that was changed is found and named."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.federation import SCHEMA

from cohortium.client import ledger_rows
from cohortium.client.budget import Ledger
from cohortium.client.config import Dataset
from cohortium.client.database import open_site_database
from cohortium.client.ledger_rows import Spending
from cohortium.common.document import canonical, parse_json
from cohortium.common.privacy import accounting
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.cross_check import cross_check
from cohortium.common.privacy.ledger_row import LedgerRow
from cohortium.common.privacy.recompute import recompute
from cohortium.common.schema import load_schema

POISSON, FULL, NOISE = "a" * 64, "b" * 64, "c" * 64
DELTA = 1e-5


def poisson(steps: int = 5) -> Mechanism:
    return Mechanism(sampler="poisson", sample_rate=0.2, noise_multiplier=1.7, steps=steps)


def full_batch(sigma: float, steps: int = 1, purpose: Any = "training") -> Mechanism:
    return Mechanism(
        sampler="full-batch",
        sample_rate=1.0,
        noise_multiplier=sigma,
        steps=steps,
        purpose=purpose,
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LedgerRow]]:
    """Two datasets at one site, three studies on one of them, by turns."""
    folder = tmp_path_factory.mktemp("ledger")
    (folder / "schema.toml").write_text(SCHEMA)
    model = load_schema(folder / "schema.toml")
    with open_site_database(folder / "site.db") as database:
        ward, clinic = (
            Ledger(database, Dataset(name, folder / "t.csv", model, 8.0, DELTA))
            for name in ("ward", "clinic")
        )
        plans = {POISSON: poisson(10), FULL: full_batch(3.0, 2)}
        for study, plan in plans.items():
            check = cross_check((plan,), DELTA)
            assert check is not None
            ward.reserve(study, (plan,), 0, {"training": check})
        spends = [
            (ward, POISSON, 1, poisson()),
            (ward, FULL, 1, full_batch(3.0)),
            (clinic, NOISE, 1, full_batch(9.0, purpose="evaluation")),
            (ward, POISSON, 2, poisson()),
            (ward, FULL, 2, full_batch(3.0)),
        ]
        for at, (ledger, study, round, mechanism) in enumerate(spends):
            ledger.spend(Spending("x", study, round, mechanism, DELTA, 1.0, "flat", at))
        texts = ledger_rows.texts(database)
        yield [parse_json(text.encode(), LedgerRow, "row") for text in texts]


def chained(rows: list[LedgerRow]) -> list[LedgerRow]:
    """The rows with every `prev` made right again, as who changes one would do."""
    prev, made = "", []
    for row in rows:
        made.append(row.model_copy(update={"prev": prev}))
        prev = hashlib.sha256(canonical(made[-1])).hexdigest()
    return made


def changed(row: LedgerRow, path: str, value: object) -> LedgerRow:
    values = row.model_dump(mode="json")
    *parents, last = path.split(".")
    inner = values
    for parent in parents:
        inner = inner[parent]
    assert inner[last] != value
    inner[last] = value
    return LedgerRow.model_validate_json(json.dumps(values))


def test_what_a_site_wrote_is_what_comes_out_again(rows: list[LedgerRow]) -> None:
    assert [row.id for row in rows] == ["x-1", "x-2", "x-3", "x-4", "x-5"]
    assert recompute(rows) == []
    assert recompute(rows[::-1]) == []  # documents come in no order
    other = [row.model_copy(update={"site": "y", "id": f"y-{n}"}) for n, row in enumerate(rows, 1)]
    assert recompute([*chained(other), *rows]) == []
    assert recompute([]) == []


# In the fourth row, the second round of Poisson samples: what is changed, and what it is found by.
MUTATIONS = [
    ("id", "x-9", "id"),
    ("id", "z-4", "id"),
    ("study", FULL, "epsilon"),
    ("lineage", "clinic", "lifetime.before"),
    ("purpose", "evaluation", "epsilon"),
    ("sampler", "full-batch", ""),
    ("sample_rate", "0.1", "dp"),
    ("noise_multiplier", "1.71", "dp"),
    ("steps", 4, "dp"),
    ("dp.count", 4, "dp"),
    ("dp.event.sampling_probability", "0.19", "dp"),
    ("dp.event.event.noise_multiplier", "1.8", "dp"),
    ("dp.event.event.noise_multiplier", 1.7, ""),
    ("dp.event.type", "Gaussian", ""),
    ("dp.type", "Composed", ""),
    ("steps_planned", 9, "steps_planned"),
    ("steps_planned", 100, "cross_check.epsilon"),
    ("delta", "1e-06", "epsilon"),
    ("delta", "0.0", ""),
    ("epsilon", "1.9", "epsilon"),
    ("epsilon", "inf", "epsilon"),
    ("cross_check.epsilon", "1.9", "cross_check.epsilon"),
    ("cross_check.agrees", False, "cross_check.agrees"),
    ("cross_check.accountant.settings.steps", "11", "steps_planned"),
    ("lifetime.before", "2.0", "lifetime.before"),
    ("lifetime.after", "2.0", "lifetime.after"),
    ("lifetime.cap", "9.0", "lifetime.limit"),
    ("lifetime.delta", "1e-06", "lifetime.limit"),
    ("lifetime.order", "4.0", "lifetime.order"),
    ("lifetime.order", "1.0", ""),
    ("lifetime.spent", "0.1", "lifetime.spent"),
    ("lifetime.limit", "9.5", "lifetime.limit"),
]


@pytest.mark.parametrize(("path", "value", "field"), MUTATIONS)
def test_a_changed_number_is_found_and_named_though_the_chain_was_made_right_again(
    rows: list[LedgerRow], path: str, value: object, field: str
) -> None:
    forged = changed(rows[3], path, value)
    problems = recompute(chained([*rows[:3], forged, *rows[4:]]))
    name = forged.id if path == "id" else "x-4"
    where = f"row {name}: {field}: " if field else f"row {name}: "
    assert any(problem.startswith(where) for problem in problems), problems


FIELDS = [("clip_norm", "2.0"), ("rng", "a coin"), ("code", "0" * 64), ("round", 3), ("at", "noon")]


@pytest.mark.parametrize(("path", "value"), FIELDS)
def test_what_follows_from_no_number_is_held_by_the_chain(
    rows: list[LedgerRow], path: str, value: object
) -> None:
    forged = [*rows[:3], changed(rows[3], path, value), *rows[4:]]
    assert "row x-5: prev: the row before it is not here" in recompute(forged)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_row_left_out_is_missed_though_the_chain_was_made_right_again(
    rows: list[LedgerRow], number: int
) -> None:
    left = [row for row in rows if row.id != f"x-{number}"]
    assert any("prev: the row before it" in problem for problem in recompute(left)) or number == 5
    problems = recompute(chained(left))
    assert any("lifetime.before" in problem for problem in problems), problems


def test_of_a_part_of_the_rows_only_what_each_says_of_itself_is_checked(
    rows: list[LedgerRow],
) -> None:
    assert recompute(rows[3:], whole=False) == []
    assert recompute(rows[3:]) == [
        "row x-4: prev: the row before it is not here",
        "row x-5: prev: the row before it is not here",
    ]
    forged = changed(rows[4], "lifetime.limit", "9.5")
    assert any("x-5: lifetime.limit" in p for p in recompute([forged], whole=False))


def test_a_row_above_the_cap_is_found_though_every_number_follows(
    tmp_path: Path, rows: list[LedgerRow]
) -> None:
    (tmp_path / "schema.toml").write_text(SCHEMA)
    model = load_schema(tmp_path / "schema.toml")
    with open_site_database(tmp_path / "site.db") as database:
        ledger = Ledger(database, Dataset("ward", tmp_path / "t.csv", model, 1.0, DELTA))
        ledger.charge(Spending("x", FULL, 0, full_batch(2.0), DELTA, 1.0, "flat", 0))
        (text,) = ledger_rows.texts(database)
    row = parse_json(text.encode(), LedgerRow, "row")
    assert recompute([row]) == []  # a loss is counted whatever the cap says
    forged = row.model_copy(update={"round": 1})
    assert any("x-1: lifetime.cap: the filter forbids it" in p for p in recompute([forged]))


def test_a_forger_who_computes_all_again_with_less_noise_is_stopped_by_the_hash_alone(
    rows: list[LedgerRow],
) -> None:
    """What recomputing cannot find: so the log names each row's hash before the update leaves."""
    quieter = rows[0].model_copy(update={"clip_norm": "5.0"})
    assert recompute(chained([quieter, *rows[1:]])) == []
    assert canonical(quieter) != canonical(rows[0])


@pytest.mark.parametrize("wrong", [0.9, 1.1])
def test_dp_accounting_alone_is_asked_too(
    rows: list[LedgerRow], monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    """Were our own composition wrong, and the rows with it, the library's own would tell."""
    honest: Callable[..., float] = accounting.epsilon
    monkeypatch.setattr(accounting, "epsilon", lambda *given: wrong * honest(*given))
    problems = recompute(rows)
    assert any("dp-accounting alone gives" in problem for problem in problems)

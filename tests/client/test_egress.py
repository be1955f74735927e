"""The one gate: what is not on the list does not leave."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from tests.asking import Asker
from tests.federation import PLAIN, PRIVATE, approve, make_site, write_study

from cohortium.client.egress import (
    ANSWERS_A_MINUTE,
    MAX_FIELD_BYTES,
    MAY_LEAVE,
    Gate,
    release,
)
from cohortium.client.site import open_site
from cohortium.common.document import Document
from cohortium.common.errors import CohortiumError, RefusedError
from cohortium.common.identity import SigningKey
from cohortium.common.messages import (
    EMPTY,
    Close,
    Closed,
    Consent,
    Invite,
    Measure,
    Measured,
    Refusal,
    Spent,
    Train,
    Update,
    Vector,
    unpack,
)
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study

VECTOR = np.array([1.0, -2.0, 0.5], dtype=np.float32)
SPENT = Spent(
    sampler="poisson",
    sample_rate=0.1,
    noise_multiplier=1.5,
    steps=5,
    delta=1e-5,
    epsilon=0.5,
    lifetime_epsilon=0.7,
    cap_epsilon=10.0,
    cap_delta=1e-5,
)
MEASURED = Measured(statistics=Statistics(count=3, total=(1.0,), squares=(2.0,)))


@pytest.fixture
def private(tmp_path: Path) -> Study:
    return write_study(tmp_path, PRIVATE)


@pytest.fixture
def plain(tmp_path: Path) -> Study:
    return write_study(tmp_path, PLAIN)


def rule(message: Document, vector: Vector, study: Study | None, parameters: int = 3) -> str:
    with pytest.raises(RefusedError) as caught:
        release(message, vector, study, parameters)
    return caught.value.rule


def test_an_update_leaves_with_its_vector_and_its_ledger_entry(private: Study) -> None:
    message, vector = unpack(release(Update(weight=1.0, spent=SPENT), VECTOR, private, 3), Update)
    assert message.spent == SPENT
    assert vector.tolist() == VECTOR.tolist()


def test_a_private_update_without_a_ledger_entry_stays(private: Study, plain: Study) -> None:
    bare = Update(weight=1.0, spent=None)
    assert rule(bare, VECTOR, private) == "egress.ledger"
    assert release(bare, VECTOR, plain, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_stays(private: Study, bad: float) -> None:
    vector = VECTOR.copy()
    vector[1] = bad
    assert rule(Update(weight=1.0, spent=SPENT), vector, private) == "egress.finite"


@pytest.mark.parametrize("vector", [VECTOR[:2], np.tile(VECTOR, 2), VECTOR[None], EMPTY])
def test_a_vector_of_another_size_than_the_model_stays(private: Study, vector: Vector) -> None:
    assert rule(Update(weight=1.0, spent=SPENT), vector, private) == "egress.vector"


def test_an_update_of_no_study_stays() -> None:
    assert rule(Update(weight=1.0, spent=SPENT), VECTOR, None) == "egress.vector"


@pytest.mark.parametrize(
    "message",
    [
        Closed(),
        Consent(decision="waiting"),
        Refusal(rule="site.error", explanation="", correlation_id=""),
    ],
)
def test_a_vector_cannot_hide_in_another_message(plain: Study, message: Document) -> None:
    assert release(message, EMPTY, plain, 3)
    assert rule(message, VECTOR, plain) == "egress.vector"


def test_exact_sums_leave_only_a_study_without_privacy(private: Study, plain: Study) -> None:
    assert rule(MEASURED, EMPTY, private) == "egress.statistics"
    assert rule(MEASURED, EMPTY, None) == "egress.statistics"
    assert release(MEASURED, EMPTY, plain, 0)


def test_no_other_message_of_the_protocol_leaves(plain: Study) -> None:
    questions: tuple[Document, ...] = (
        Invite(study=plain),
        Measure(),
        Train(),
        Close(outcome=""),
        SPENT,
        plain,
    )
    for message in questions:
        assert rule(message, EMPTY, plain) == "egress.message"


def test_a_subclass_with_one_more_field_stays(plain: Study) -> None:
    class Leaky(Closed):
        patients: tuple[str, ...]

    with pytest.raises(CohortiumError):
        release(Leaky(patients=("Jane",)), EMPTY, plain, 0)
    assert len(MAY_LEAVE) == 10


@pytest.mark.parametrize("large", [1e6, -1e30, 3e38])
def test_an_update_longer_than_any_useful_one_stays(
    private: Study, plain: Study, large: float
) -> None:
    vector = np.array([0.0, large, 0.0], dtype=np.float32)
    assert rule(Update(weight=1.0, spent=SPENT), vector, private) == "egress.norm"
    assert rule(Update(weight=1.0, spent=None), vector, plain) == "egress.norm"


def test_many_small_values_are_as_long_as_one_large(private: Study) -> None:
    update = Update(weight=1.0, spent=SPENT)
    most = np.full(10_000, 9_999.0, dtype=np.float32)  # 9999 * sqrt(10000) < 1e6
    assert release(update, most, private, 10_000)
    with pytest.raises(RefusedError, match=r"egress\.norm"):
        release(update, most + 2, private, 10_000)


def test_values_of_more_bytes_than_the_models_stay(private: Study) -> None:
    wide = VECTOR.astype(np.float64)
    assert rule(Update(weight=1.0, spent=SPENT), wide, private) == "egress.vector"  # type: ignore[arg-type]


def test_fields_larger_than_any_message_needs_stay(plain: Study) -> None:
    def sums(columns: int) -> Measured:
        numbers = (0.123456789,) * columns
        return Measured(statistics=Statistics(count=1, total=numbers, squares=numbers))

    assert len(release(sums(2000), EMPTY, plain, 0)) < MAX_FIELD_BYTES
    assert rule(sums(4000), EMPTY, plain) == "egress.size"


def test_the_vector_does_not_count_as_fields(private: Study) -> None:
    vector = np.zeros(MAX_FIELD_BYTES, dtype=np.float32)
    assert release(Update(weight=1.0, spent=SPENT), vector, private, len(vector))


# ------------------------------------------------------------------ how often


def test_one_answer_too_many_in_a_minute_waits_for_the_next(private: Study) -> None:
    gate = Gate()
    for second in range(ANSWERS_A_MINUTE):
        gate.admit("one", 60_000 + second % 60 * 1000)
    with pytest.raises(RefusedError, match=r"egress\.rate"):
        gate.admit("one", 119_999)
    gate.admit("another", 119_999)
    gate.admit("one", 120_000)


def test_a_study_that_hammers_at_a_site_is_refused_and_the_reason_recorded(
    tmp_path: Path, private: Study
) -> None:
    key, noon = SigningKey.generate(), datetime(2026, 3, 1, 12, tzinfo=UTC)
    made = make_site(tmp_path / "a", "a", key.public)
    site = open_site(made.directory.root, lambda: noon)
    approve(site, private)
    asker = Asker(key, site)
    asker.invite(private)
    first = asker.train(private, 1)
    for _ in range(ANSWERS_A_MINUTE - 1):
        site.gate.admit(private.digest, site.now_ms())
    assert asker.train(private, 2).rule == "egress.rate"
    assert asker.train(private, 1).body == first.body  # nothing new leaves
    assert [entry.round for entry in site.ledger(private).entries()] == [1]
    assert [e.reason for e in site.log.events() if e.action == "round.refused"] == ["egress.rate"]

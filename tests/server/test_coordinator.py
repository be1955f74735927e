"""A study ends well or with a cause, whatever its sites do: nobody's lie is ever folded."""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.federation import (
    FULL,
    Federation,
    InProcessSites,
    approve,
    federate,
    write_study,
    write_ward,
)

from cohortium.client.site import Site
from cohortium.common.document import Document
from cohortium.common.envelope import Header, seal, unseal
from cohortium.common.errors import UnreachableError
from cohortium.common.identity import SigningKey
from cohortium.common.messages import (
    EMPTY,
    Consent,
    Evaluated,
    Measured,
    Refusal,
    Update,
    Vector,
    kind_of,
    pack,
    unpack,
)
from cohortium.common.study import Study
from cohortium.server.checkpoints import Checkpoints
from cohortium.server.conversation import StudyStopped
from cohortium.server.coordinator import run_study
from cohortium.server.desk import StudyFailed

LOOSE = {"allow_unprotected": "true", "allow_exact_counts": "true", "minimum_cell": "0"}

PLAIN = """
[training]
rounds = 3
batches = "shuffle"
batch_size = 16
local_steps = 3
learning_rate = 0.2

[privacy]
mechanism = "none"
"""

SHORT = PLAIN.replace("rounds = 3", "rounds = 2")


Reply = Callable[[Header, memoryview, Site], bytes]


def approved(root: Path, *parts: str, **settings: Any) -> tuple[Study, Federation]:
    """A study that all three sites have approved."""
    root.mkdir(exist_ok=True)
    study = write_study(root, *parts, round_deadline=1.0)
    federation = federate(root, policy=LOOSE, patients=60, **settings)
    for site in federation.sites.values():
        approve(site, study)
    return study, federation


def run(study: Study, federation: Federation) -> Vector:
    return run_study(study, federation.desk(study))


@dataclass
class Hostile:
    """Sites of which `name` answers messages of `kind` as it likes."""

    honest: InProcessSites
    name: str
    kind: str
    reply: Reply
    past: list[bytes] = field(default_factory=list)

    def ask(
        self, heads: Mapping[str, bytes], body: bytes, deadline_s: float
    ) -> Iterator[tuple[str, bytes]]:
        for name, raw in self.honest.ask(heads, body, deadline_s):
            site = self.honest.sites[name]
            header, said = unseal(raw, site.key.public)
            if name == self.name and header.kind == self.kind:
                yield name, self.reply(header, said, site)
            else:
                yield name, raw


def attack(federation: Federation, reply: Reply, kind: str = "update") -> None:
    federation.transport = Hostile(federation.transport, "b", kind, reply)  # type: ignore[assignment]


def resealed(change: Callable[[Update, Vector], tuple[Document, Vector]]) -> Reply:
    """The honest update with something changed, rightly signed."""

    def reply(header: Header, body: memoryview, site: Site) -> bytes:
        message, vector = change(*unpack(body, Update))
        sent = header.model_copy(update={"kind": kind_of(message)})
        return seal(sent, pack(message, vector), site.key)

    return reply


def reheaded(**changes: Any) -> Reply:
    def reply(header: Header, body: memoryview, site: Site) -> bytes:
        return seal(header.model_copy(update=changes), bytes(body), site.key)

    return reply


def replayed() -> Reply:
    """Always the first reply that it ever gave."""
    first: list[bytes] = []

    def reply(header: Header, body: memoryview, site: Site) -> bytes:
        first.append(seal(header, bytes(body), site.key))
        return first[0]

    return reply


def cut(header: Header, body: memoryview, site: Site) -> bytes:
    return seal(header, bytes(body), site.key)[:-1]


def signed_by_nobody(header: Header, body: memoryview, site: Site) -> bytes:
    return seal(header, bytes(body), SigningKey.generate())


def not_finite(header: Header, body: memoryview, site: Site) -> bytes:
    raw = bytearray(body)
    raw[-4:] = struct.pack("<f", float("nan"))
    return seal(header, bytes(raw), site.key)


def heavier(weight: float) -> Reply:
    return resealed(lambda m, v: (m.model_copy(update={"weight": weight}), v))


LIES: dict[str, tuple[str, Reply]] = {
    "signed by another key": ("reply.signature", signed_by_nobody),
    "no envelope": ("reply.signature", lambda *_: b"HTTP/1.1 200 OK"),
    "nothing": ("reply.signature", lambda *_: b""),
    "cut short": ("reply.signature", cut),
    "in another site's name": ("reply.protocol", reheaded(sender="a")),
    "to somebody else": ("reply.protocol", reheaded(recipient="c")),
    "of another round": ("reply.protocol", reheaded(round=2)),
    "of another study": ("reply.protocol", reheaded(study="0" * 64)),
    "to another request": ("reply.protocol", reheaded(message_id="0" * 32)),
    "of another kind": ("reply.protocol", reheaded(kind="evaluated")),
    "of no kind": ("reply.protocol", reheaded(kind="")),
    "too short a vector": ("reply.protocol", resealed(lambda m, v: (m, v[:-1]))),
    "too long a vector": ("reply.protocol", resealed(lambda m, v: (m, np.tile(v, 1000)))),
    "no vector": ("reply.protocol", resealed(lambda m, v: (m, EMPTY))),
    "a vector with NaN": ("reply.protocol", not_finite),
    "a weight of 1e30": ("reply.protocol", heavier(1e30)),
    "a weight between the bands": ("reply.protocol", heavier(32.5)),
    "an evaluation instead": (
        "reply.protocol",
        resealed(lambda m, v: (Consent(decision="waiting"), EMPTY)),
    ),
}


@pytest.fixture(scope="module")
def model_without_b(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What SHORT gives where b refused from the beginning."""
    study, federation = approved(tmp_path_factory.mktemp("without"), SHORT)
    consent = Consent(decision="refused", rule="study.rejected", explanation="")
    desk = federation.desk(study)
    desk.store.decide(study.digest, "b", consent, 0)
    return run_study(study, desk).tobytes()


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_site_is_refused_and_the_others_get_the_result_they_get_without_it(
    tmp_path: Path, lie: str, model_without_b: bytes
) -> None:
    rule, reply = LIES[lie]
    study, federation = approved(tmp_path, SHORT)
    attack(federation, reply)
    assert run(study, federation).tobytes() == model_without_b
    first, second = federation.store.rounds(study.digest)
    assert first.replied == second.replied == ("a", "c")
    assert first.refused["b"].startswith(f"{rule}: ")
    # A reply that b did not sign is not b's fault: what it does sign still counts.
    assert ("b" in first.evaluations) == (rule == "reply.signature")


def test_an_old_reply_of_its_own_does_not_answer_a_new_round(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, PLAIN)
    attack(federation, replayed())
    run(study, federation)
    first, second, third = federation.store.rounds(study.digest)
    assert first.replied == ("a", "b", "c")
    assert second.refused["b"].startswith("reply.protocol: b sent a reply that answers another")
    assert second.replied == third.replied == ("a", "c")


def test_a_private_update_without_its_account_is_not_folded(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, FULL)
    attack(federation, resealed(lambda m, v: (m.model_copy(update={"spent": None}), v)))
    run(study, federation)
    first, *_ = federation.store.rounds(study.digest)
    assert first.refused["b"].startswith("reply.protocol: an update says what it spent")
    assert first.replied == ("a", "c")


def counted(**changes: Any) -> Reply:
    def reply(header: Header, body: memoryview, site: Site) -> bytes:
        message, _ = unpack(body, Evaluated)
        overall = message.evaluation.overall.model_copy(update=changes)
        evaluation = message.evaluation.model_copy(update={"overall": overall})
        return seal(header, pack(Evaluated(evaluation=evaluation)), site.key)

    return reply


def grouped(groups: Mapping[str, Any]) -> Reply:
    def reply(header: Header, body: memoryview, site: Site) -> bytes:
        message, _ = unpack(body, Evaluated)
        evaluation = message.evaluation.model_copy(update={"groups": groups})
        return seal(header, pack(Evaluated(evaluation=evaluation)), site.key)

    return reply


@pytest.mark.parametrize(
    "reply",
    [
        counted(n=10, positives=20),
        counted(n=10, correct=2**2000),
        counted(n=2**40, positives=0, correct=0, tp=0, fp=0, tn=0, fn=0),
        counted(n=None, positives=5),
        counted(tp=10**6),
        counted(reason="x" * 10_000),
        counted(reason="\x1b[31mred"),
        grouped({}),  # of the final model, which is measured by group
        grouped({"sex": {}, "age": {}, "religion": {}}),
        grouped({"sex": {}}),
    ],
)
def test_an_impossible_evaluation_is_left_out_and_breaks_nobodys_study(
    tmp_path: Path, reply: Reply
) -> None:
    study, federation = approved(tmp_path, SHORT)
    attack(federation, reply, kind="evaluated")
    run(study, federation)
    refused = next(r for r in federation.store.rounds(study.digest) if "b" in r.refused)
    assert refused.refused["b"].startswith(("reply.protocol: ", "reply.signature: "))
    assert sorted(refused.evaluations) == ["a", "c"]
    assert federation.store.study(study.name).state == "completed"


@pytest.mark.parametrize(
    "values",
    [
        {"total": (), "squares": ()},
        {"total": (1.0,) * 4, "squares": (1.0,) * 4},
        {"count": 0},
        {"count": 2**60},
        {"squares": (-1.0,) * 3},
    ],
)
def test_impossible_sums_are_left_out_and_break_nobodys_study(
    tmp_path: Path, values: Mapping[str, Any]
) -> None:
    study, federation = approved(tmp_path, SHORT, STANDARD)

    def reply(header: Header, body: memoryview, site: Site) -> bytes:
        message, _ = unpack(body, Measured)
        assert message.statistics is not None
        statistics = message.statistics.model_copy(update=values)
        return seal(header, pack(Measured(statistics=statistics)), site.key)

    attack(federation, reply, kind="measured")
    run(study, federation)
    assert [r.replied for r in federation.store.rounds(study.digest)] == [("a", "c")] * 2


@pytest.mark.parametrize(
    "fields",
    [
        b'{"decision":"approved","approvers":[]}',
        b'{"decision":"approved","approvers":["A\\nB"]}',
        b'{"decision":"refused","rule":""}',
        b'{"decision":"refused","rule":"a\\nb"}',
        b"{}",
    ],
)
def test_a_consent_that_contradicts_itself_is_a_refusal(tmp_path: Path, fields: bytes) -> None:
    study, federation = approved(tmp_path, SHORT)

    def reply(header: Header, body: memoryview, site: Site) -> bytes:
        return seal(header, struct.pack(">I", len(fields)) + fields, site.key)

    attack(federation, reply, kind="consent")
    run(study, federation)
    consent = federation.store.consents(study.digest)["b"]
    assert (consent.decision, consent.rule) == ("refused", "reply.protocol")


@pytest.mark.parametrize(
    "fields",
    [
        b'{"rule":"x:y","explanation":"","correlation_id":""}',
        b'{"rule":"site.error","explanation":"a\\nforged line","correlation_id":""}',
        b'{"rule":"","explanation":"","correlation_id":"","bad\\nkey":1}',
    ],
)
def test_a_refusal_made_to_break_the_log_is_a_refusal_like_any_other(
    tmp_path: Path, fields: bytes
) -> None:
    study, federation = approved(tmp_path, SHORT)

    def reply(header: Header, body: memoryview, site: Site) -> bytes:
        sent = header.model_copy(update={"kind": Refusal.kind})
        return seal(sent, struct.pack(">I", len(fields)) + fields, site.key)

    attack(federation, reply)
    run(study, federation)
    first, *_ = federation.store.rounds(study.digest)
    assert first.refused["b"].startswith(("reply.protocol: ", "reply.signature: "))
    assert first.refused["b"].isprintable()
    federation.log.verify()


@dataclass
class Stammering:
    """Sends every reply twice."""

    honest: InProcessSites

    def ask(
        self, heads: Mapping[str, bytes], body: bytes, deadline_s: float
    ) -> Iterator[tuple[str, bytes]]:
        for pair in self.honest.ask(heads, body, deadline_s):
            yield pair
            yield pair


def test_a_reply_that_arrives_twice_is_folded_once(tmp_path: Path, undisturbed: bytes) -> None:
    study, twice = approved(tmp_path, PLAIN)
    twice.transport = Stammering(twice.transport)  # type: ignore[assignment]
    assert run(study, twice).tobytes() == undisturbed


# ------------------------------------------------------------------ quorum and endings


def test_a_missing_quorum_fails_with_the_reason_of_every_site(tmp_path: Path) -> None:
    study = write_study(tmp_path, PLAIN, "")
    federation = federate(tmp_path, patients=60)
    with pytest.raises(StudyFailed) as caught:
        run_study(hurried(study), federation.desk(hurried(study)))
    text = str(caught.value)
    assert text.startswith("0 of the 2 sites that the study needs approved it; ")
    for name in "abc":
        assert f"{name}: policy.allow_unprotected (" in text
    row = federation.store.study(study.name)
    assert (row.state, row.cause) == ("failed", text)


def hurried(study: Study) -> Study:
    """The same with little patience for people."""
    sites = study.sites.model_copy(update={"approval_deadline": 0.2})
    return study.model_copy(update={"sites": sites})


def test_sites_that_never_decide_are_named(tmp_path: Path) -> None:
    study = hurried(write_study(tmp_path, PLAIN))
    federation = federate(tmp_path, policy=LOOSE, patients=60)
    approve(federation.sites["a"], study)
    with pytest.raises(StudyFailed, match=r"1 of the 2 .*no decision in time: b, c"):
        run(study, federation)


def test_two_sites_that_lose_their_data_end_the_study_with_their_reasons(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, PLAIN)
    refusal = Refusal(rule="data.unfit", explanation="gone", correlation_id="1")
    for name in "ab":
        federation.transport = Hostile(  # type: ignore[assignment]
            federation.transport, name, "update", resealed(lambda *_: (refusal, EMPTY))
        )
        federation.transport.sites = federation.sites
    with pytest.raises(StudyFailed) as caught:
        run(study, federation)
    assert str(caught.value) == (
        "round 1 of 3, training: 1 of the 2 sites needed replied; "
        "a refused (data.unfit: gone [1]); b refused (data.unfit: gone [1])"
    )
    assert federation.store.study(study.name).state == "failed"
    actions = [event.action for event in federation.log.events()]
    assert actions[-1] == "run.failed"
    closed = {s: k.studies.by_digest(study.digest).state for s, k in federation.sites.items()}
    assert closed == dict.fromkeys("abc", "ended")


def test_a_stop_request_ends_the_study_and_the_sites_are_told(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, PLAIN)
    desk = federation.desk(study)
    ask, asked = federation.transport.ask, 0

    def stopping(*given: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 4:  # the second round's training
            federation.store.ask_to_stop(study.digest, "lead")
        return ask(*given)

    federation.transport.ask = stopping  # type: ignore[assignment,method-assign]
    with pytest.raises(StudyStopped, match="stopped by lead"):
        run_study(study, desk)
    row = federation.store.study(study.name)
    assert (row.state, row.cause) == ("stopped", "stopped by lead")
    assert len(federation.store.rounds(study.digest)) == 1
    for site in federation.sites.values():
        assert site.studies.by_digest(study.digest).state == "ended"


def test_a_model_that_diverges_ends_the_study_with_a_cause(tmp_path: Path) -> None:
    wild = FULL.replace("learning_rate = 2.0", "learning_rate = 1e38")
    study, federation = approved(tmp_path, wild.replace("epsilon = 3.0", "epsilon = 0.01"))
    with pytest.raises(StudyFailed, match=r"diverged|not finite|no probabilities"):
        run(study, federation)
    assert federation.store.study(study.name).state == "failed"


# ------------------------------------------------------------------ resuming


class Gone(Exception):
    """The coordinator's process ends."""


def dying(federation: Federation, at: int, inside: bool) -> None:
    """The transport ends the process at its `at`-th request, before or amid the replies."""
    ask, asked = federation.transport.ask, 0

    def die(
        heads: Mapping[str, bytes], body: bytes, deadline_s: float
    ) -> Iterator[tuple[str, bytes]]:
        nonlocal asked
        asked += 1
        if asked == at and not inside:
            raise Gone
        for number, pair in enumerate(ask(heads, body, deadline_s)):
            if asked == at and number == 1:
                raise Gone
            yield pair

    federation.transport.ask = die  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What PLAIN gives."""
    return run(*approved(tmp_path_factory.mktemp("whole"), PLAIN)).tobytes()


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("inside", [False, True])
def test_a_study_cut_off_anywhere_and_resumed_gives_the_undisturbed_bits(
    tmp_path: Path, at: int, inside: bool, undisturbed: bytes
) -> None:
    study, broken = approved(tmp_path, PLAIN)
    ask = broken.transport.ask
    dying(broken, at, inside)
    with pytest.raises(Gone):
        run(study, broken)
    broken.transport.ask = ask  # type: ignore[method-assign]
    assert broken.store.study(study.name).state == "running"
    assert run(study, broken).tobytes() == undisturbed
    assert [r.round for r in broken.store.rounds(study.digest)] == [1, 2, 3]
    assert [r.replied for r in broken.store.rounds(study.digest)] == [("a", "b", "c")] * 3


def test_resuming_in_the_middle_of_a_private_round_spends_nothing_twice(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, FULL)
    ask = federation.transport.ask
    dying(federation, at=4, inside=True)
    with pytest.raises(Gone):
        run(study, federation)
    federation.transport.ask = ask  # type: ignore[method-assign]
    run(study, federation)
    for site in federation.sites.values():
        assert [entry.round for entry in site.ledger(study).entries()] == [1, 2, 3]
    *_, last = federation.store.rounds(study.digest)
    assert {spent.steps for spent in last.spent.values()} == {3}
    actions = [event.action for event in federation.log.events()]
    assert (actions.count("run.started"), actions.count("run.resumed")) == (1, 1)


def test_a_transport_that_is_gone_leaves_the_study_to_be_resumed(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, PLAIN)

    def gone(*_: Any) -> Any:
        raise UnreachableError("the SuperLink is gone")

    ask = federation.transport.ask
    federation.transport.ask = gone  # type: ignore[assignment,method-assign]
    with pytest.raises(UnreachableError):
        run(study, federation)
    assert federation.store.study(study.name).state == "running"
    federation.transport.ask = ask  # type: ignore[method-assign]
    run(study, federation)
    assert federation.store.study(study.name).state == "completed"


# ------------------------------------------------------------------ arithmetic

STANDARD = """
[preprocessing]
scaling = "federated-standard"
"""


def test_federated_scaling_is_the_scaling_of_the_pooled_rows(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, PLAIN, STANDARD)
    pooled, sums = [], []

    def keep(header: Header, body: memoryview, site: Site) -> bytes:
        statistics = unpack(body, Measured)[0].statistics
        assert statistics is not None
        sums.append(statistics)
        return seal(header, bytes(body), site.key)

    for name in "abc":
        plain = study.model_copy(
            update={"preprocessing": study.preprocessing.model_copy(update={"scaling": "none"})}
        )
        pooled.append(cohort_of(federation.sites[name], plain))
        federation.transport = Hostile(federation.transport, name, "measured", keep)  # type: ignore[assignment]
        federation.transport.sites = federation.sites
    run(study, federation)
    rows = np.vstack(pooled).astype(np.float64)
    total = sums[0] + sums[1] + sums[2]
    assert total.count == len(rows)
    np.testing.assert_allclose(total.mean, rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(total.deviation, rows.std(axis=0, ddof=1), rtol=1e-6)


def cohort_of(site: Site, study: Study) -> Vector:
    """Training features of a site, unscaled."""
    from cohortium.client.cohort import load_table, prepare

    dataset = site.directory.load_dataset("ward")
    return prepare(load_table(study, dataset, site.name), study, site.name).features


@pytest.mark.parametrize(
    ("strategy", "rate"),
    [("fedavg", 1.0), ("fedavgm", 0.5), ("fedadam", 0.1), ("fedyogi", 0.1), ("fedadagrad", 3.0)],
)
def test_every_strategy_learns_something(tmp_path: Path, strategy: str, rate: float) -> None:
    text = f'[strategy]\nname = "{strategy}"\nlearning_rate = {rate}\n'
    study, federation = approved(tmp_path, PLAIN, text)
    run(study, federation)
    *_, last = federation.store.rounds(study.digest)
    assert last.summary is not None
    assert last.summary.auroc.unweighted is not None
    assert last.summary.auroc.unweighted > 0.7


def test_fedprox_holds_sites_closer_to_the_model_than_fedavg(tmp_path: Path) -> None:
    moved = []
    for name, text in (("avg", ""), ("prox", '[strategy]\nname = "fedprox"\nproximal_mu = 4.0\n')):
        study, federation = approved(tmp_path / name, PLAIN, text)
        norms: list[float] = []

        def keep(header: Header, body: memoryview, site: Site, norms: list[float] = norms) -> bytes:
            norms.append(float(np.linalg.norm(unpack(body, Update)[1])))
            return seal(header, bytes(body), site.key)

        attack(federation, keep)
        run(study, federation)
        moved.append(norms[0])
    assert 0 < moved[1] < moved[0]


def test_the_average_of_the_last_rounds_is_their_average(tmp_path: Path) -> None:
    study, federation = approved(tmp_path / "last", PLAIN, "[strategy]\naverage_last = 0.67\n")
    final = run(study, federation)
    kept = Checkpoints(federation.store.database, study.digest)
    before, last = (kept.load(number).model.astype(np.float64) for number in (2, 3))
    mean = (before + last) / 2
    np.testing.assert_array_equal(final, mean.astype(np.float32))


def test_exact_weights_are_the_training_patients_and_need_the_sites_word(tmp_path: Path) -> None:
    text = '[strategy]\nweighting = "exact"\n'
    study, federation = approved(tmp_path / "yes", PLAIN, text)
    weights: list[float] = []

    def keep(header: Header, body: memoryview, site: Site) -> bytes:
        weights.append(unpack(body, Update)[0].weight)
        return seal(header, bytes(body), site.key)

    attack(federation, keep)
    run(study, federation)
    assert weights[0] == len(cohort_of(federation.sites["b"], study))

    (tmp_path / "no").mkdir()
    strict = federate(tmp_path / "no", policy={"allow_unprotected": "true"}, patients=60)
    with pytest.raises(StudyFailed, match=r"a: policy\.allow_exact_counts"):
        run_study(study, strict.desk(study))


def test_equal_weights_are_one(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, PLAIN, '[strategy]\nweighting = "equal"\n')
    write_ward(federation.root / "b" / "ward.csv", seed=1, patients=600)
    approve(federation.sites["b"], study)  # of the table as it is now
    run(study, federation)
    one, *_ = federation.store.rounds(study.digest)
    assert one.replied == ("a", "b", "c")
    attack_study, again = approved(tmp_path / "2", PLAIN, '[strategy]\nweighting = "equal"\n')
    attack(again, heavier(2.0))
    run(attack_study, again)
    first, *_ = again.store.rounds(attack_study.digest)
    assert first.refused["b"].startswith('reply.protocol: weighting "equal"')

"""Studies that train adapters: what travels, what gets noise, and what is released."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, load_file
from tests.any_study import federation_of, run
from tests.asking import Asker
from tests.federation import FULL, PLAIN, PRIVATE, Federation, write_ward
from tests.server.test_quorum import Unreliable
from tests.server.test_transfer import made, write_start

from cohortium.common import arrays
from cohortium.common.envelope import unseal
from cohortium.common.errors import DocumentError, UnreachableError, UsageError
from cohortium.common.messages import EMPTY, Evaluate, Hold, Train
from cohortium.common.models.adapters import of_adapter
from cohortium.common.models.building import released_module, study_module
from cohortium.common.study import Study, load_study
from cohortium.common.using.described import ADAPTERS_FILE, described, load_module, written
from cohortium.server.adapters_file import adapters
from cohortium.server.aggregation.optimizer import ServerState
from cohortium.server.checkpoints import Checkpoints
from cohortium.server.model_file import final_vector, pieces
from cohortium.server.starting import check_patterns, start_vector
from cohortium.server.successor import without

WIDE = '[model]\nname = "mlp"\nhidden = [64, 64]\n'
ADAPTERS = """
[transfer]
start = "base.safetensors"
initialise = ["4.*"]

[transfer.adapters]
rank = 2
alpha = 4.0
layers = ["2"]
"""
TRAINED = 2 * (64 + 64) + 64 + 1  # of layer 2 its adapter, and the head, which begins anew


def prepared(
    root: Path, training: str, transfer: str = ADAPTERS, sites: str = ""
) -> tuple[Study, Federation]:
    """A study of three sites that begins with a file, as `study submit` leaves it."""
    plain = made(root / "before", training, "", WIDE)
    (root / "after").mkdir()
    write_start(root / "after" / "base.safetensors", plain)
    study = made(root / "after", training, transfer, WIDE)
    if sites:
        path = root / "after" / "study.toml"
        path.write_text(path.read_text().replace("round_deadline = 60.0\n", sites))
        study = load_study(path)
    check_patterns(study)
    tables = {n: write_ward(root / f"{n}.csv", seed, 60) for seed, n in enumerate("abc")}
    federation = federation_of(root / "after", study, tables)
    start = start_vector(study, root / "after" / "base.safetensors")
    federation.store.submit(study, 0)
    Checkpoints(federation.store.database, study.digest).keep(0, ServerState.start(start))
    return study, federation


def beginning(root: Path, study: Study) -> np.ndarray:
    return start_vector(study, root / "after" / "base.safetensors")


def travelled(federation: Federation) -> dict[tuple[str, int, str], tuple[int, int]]:
    """Bytes of each question and of its answer, by site, round and kind."""
    found = {}
    for site, request, reply in federation.transport.wire:
        header, _ = unseal(request, federation.key.public)
        found[site, header.round, header.kind] = (len(request), len(reply))
    return found


@pytest.mark.parametrize("training", [PLAIN, PRIVATE, FULL])
def test_only_adapters_travel_and_only_they_move(tmp_path: Path, training: str) -> None:
    study, federation = prepared(tmp_path, training)
    start = beginning(tmp_path, study)
    model = run(study, federation)
    moves = arrays.trained(study_module(study))
    assert moves.tolist() == [True] * TRAINED + [False] * (len(start) - TRAINED)
    assert np.array_equal(model[TRAINED:], start[TRAINED:])
    assert (model[:TRAINED] != start[:TRAINED]).mean() > 0.95

    went = travelled(federation)
    rest = 4 * (len(start) - TRAINED)
    asked = Counter(kind for _, _, kind in went)
    assert asked["hold"] == 3
    assert asked["train"] == 3 * study.training.rounds
    assert rest > 10 * 4 * TRAINED  # or this test would show nothing
    for (_, round, kind), (question, answer) in went.items():
        if kind == "hold":
            assert round == 1
            assert rest < question < rest + 2000
        if kind in ("train", "evaluate"):
            assert 4 * TRAINED < question < 4 * TRAINED + 2000
        if kind == "train":
            assert 4 * TRAINED < answer < 4 * TRAINED + 2000
    federation.close()


def test_the_ledger_is_that_of_any_other_model(tmp_path: Path) -> None:
    rows = []
    for folder, transfer in (
        ("with", ADAPTERS),
        ("all", '[transfer]\nstart = "base.safetensors"\n'),
    ):
        study, federation = prepared(tmp_path / folder, PRIVATE, transfer)
        run(study, federation)
        rows.append([e.mechanism for e in federation.sites["a"].ledger(study).entries()])
        federation.close()
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4


def test_the_release_holds_merged_layers_and_the_adapters_beside_it(tmp_path: Path) -> None:
    study, federation = prepared(tmp_path, PLAIN)
    trained = run(study, federation)
    row, store = federation.store.study(study.name), federation.store
    out = tmp_path / "model"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"".join(pieces(row, store)))
    (out / "study.json").write_bytes(written(described(study, None)))
    module = study_module(study)
    arrays.load_into(module, trained)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
    with torch.no_grad():
        expected = module(rows)
        torch.testing.assert_close(load_module(out, study)(rows), expected, rtol=1e-5, atol=1e-5)
    alone = released_module(study)
    arrays.load_into(alone, final_vector(row, store))
    with torch.no_grad():
        torch.testing.assert_close(alone(rows), expected, rtol=1e-5, atol=1e-5)

    (raw,) = adapters(row, store)[ADAPTERS_FILE]
    parts, base = load(raw), load_file(tmp_path / "after" / "base.safetensors")
    assert set(parts) == {"2.adapter_down.weight", "2.adapter_up.weight"}
    path = 4.0 / 2 * parts["2.adapter_up.weight"] @ parts["2.adapter_down.weight"]
    merged = load_file(out / "model.safetensors")
    np.testing.assert_allclose(merged["2.weight"], base["2.weight"] + path, rtol=1e-5, atol=1e-6)
    assert np.array_equal(merged["0.weight"], base["0.weight"])
    federation.close()


@pytest.mark.parametrize("on_missing", ["continue", "wait"])
def test_a_site_that_comes_late_is_sent_the_rest_then(tmp_path: Path, on_missing: str) -> None:
    sites = f'round_deadline = 0.3\non_missing = "{on_missing}"\n'
    study, federation = prepared(tmp_path, PLAIN, sites=sites)

    def silent(name: str, asked: int) -> bool:
        away = asked <= 5 if on_missing == "wait" else len(store.rounds(study.digest)) < 2
        return name == "c" and asked > 1 and away

    store, honest = federation.store, federation.transport
    federation.transport = Unreliable(honest, silent)  # type: ignore[assignment]
    run(study, federation)
    federation.transport = honest
    first = 1 if on_missing == "wait" else 3
    replied = ["".join(sorted(record.replied)) for record in store.rounds(study.digest)]
    assert replied == ["ab"] * (first - 1) + ["abc"] * (5 - first)
    held = [(site, round) for site, round, kind in travelled(federation) if kind == "hold"]
    assert held == [("a", 1), ("b", 1), ("c", first)]
    federation.close()


def test_a_coordinator_that_goes_on_sends_the_rest_to_nobody_again(tmp_path: Path) -> None:
    study, federation = prepared(tmp_path, PLAIN)

    def gone(name: str, asked: int) -> bool:
        if asked == 6:
            raise UnreachableError("the network is gone")
        return False

    honest = federation.transport
    federation.transport = Unreliable(honest, gone)  # type: ignore[assignment]
    with pytest.raises(UnreachableError):
        run(study, federation)
    assert 0 < len(federation.store.rounds(study.digest)) < study.training.rounds
    federation.transport = honest
    assert len(travelled(federation)) > 6
    honest.wire.clear()
    run(study, federation)
    kinds = {kind for _, _, kind in travelled(federation)}
    assert "train" in kinds
    assert "hold" not in kinds
    federation.close()


def test_a_site_trains_nothing_of_which_the_rest_has_not_come(tmp_path: Path) -> None:
    study, federation = prepared(tmp_path, PLAIN)
    start = beginning(tmp_path, study)
    asker = Asker(federation.key, federation.sites["a"])
    asker.invite(study)
    assert asker.ask(study, Train(), 1, start[:TRAINED]).rule == "transfer.held"
    assert asker.ask(study, Hold(), 1, EMPTY).rule == "transfer.held"
    assert asker.ask(study, Hold(), 1, start[TRAINED:]).header.kind == "held"
    assert asker.ask(study, Hold(), 2, start[TRAINED:]).header.kind == "held"
    assert asker.ask(study, Hold(), 2, start[TRAINED:] * 2).rule == "transfer.held"
    assert asker.ask(study, Train(), 1, start).rule  # nobody gets a model of another length in
    assert asker.ask(study, Evaluate(), 1, start).rule
    assert asker.ask(study, Train(), 1, start[:TRAINED]).header.kind == "update"
    came = [e for e in asker.site.log.events() if e.action == "round.task.received"]
    assert [event.detail["kind"] for event in came] == ["hold", "train"]
    assert [event.obj[0].bytes for event in came] == [4 * (len(start) - TRAINED), 4 * TRAINED]
    federation.close()


def test_a_study_whose_model_travels_whole_holds_nothing(tmp_path: Path) -> None:
    study = made(tmp_path / "study", PLAIN, "", WIDE)
    tables = {n: write_ward(tmp_path / f"{n}.csv", seed, 60) for seed, n in enumerate("abc")}
    federation = federation_of(tmp_path / "study", study, tables)
    asker = Asker(federation.key, federation.sites["a"])
    asker.invite(study)
    assert asker.ask(study, Hold(), 1, np.ones(3, np.float32)).rule == "transfer.held"
    federation.close()


def test_going_on_without_a_site_keeps_what_is_trained(tmp_path: Path) -> None:
    study, federation = prepared(tmp_path, PLAIN)
    run(study, federation)
    later = without(federation.store.study(study.name), "c", 3, federation.store)
    names = [name for name, _ in arrays.trained_of(study_module(later))]
    assert names == [name for name, _ in arrays.trained_of(study_module(study))]
    assert any(map(of_adapter, names))
    federation.close()


def with_adapters(*lines: str, start: bool = True) -> str:
    begin = 'start = "base.safetensors"\n' if start else ""
    return f"\n[transfer]\n{begin}{lines[0]}\n[transfer.adapters]\n" + "\n".join(lines[1:])


@pytest.mark.parametrize(
    ("transfer", "said"),
    [
        (with_adapters("", "rank = 2", start=False), "nothing to adapt; give transfer.start"),
        (with_adapters('freeze = ["0.*"]', "rank = 2"), "transfer.freeze: .*remove it"),
        (with_adapters("", "rank = 0"), "rank"),
        (with_adapters("", "layers = []"), "layers"),
        (with_adapters("", "alpha = 0.0"), "alpha"),
    ],
)
def test_adapters_that_cannot_be_are_refused(tmp_path: Path, transfer: str, said: str) -> None:
    write_start(tmp_path / "base.safetensors", made(tmp_path / "before", PLAIN, "", WIDE))
    (tmp_path / "after").mkdir()
    (tmp_path / "base.safetensors").rename(tmp_path / "after" / "base.safetensors")
    with pytest.raises(DocumentError, match=said):
        made(tmp_path / "after", PLAIN, transfer, WIDE)


@pytest.mark.parametrize(
    ("transfer", "said"),
    [
        (with_adapters("", 'layers = ["2", "head"]'), 'no linear layer is called "head"; there'),
        (with_adapters("", "rank = 2"), r"2 is larger than layer 4 \(1 x 64\), whose rank is 1 at"),
        (with_adapters('initialise = ["4.*"]', 'layers = ["4"]'), "nothing is adapted"),
    ],
)
def test_layers_that_cannot_be_adapted_are_refused(
    tmp_path: Path, transfer: str, said: str
) -> None:
    (tmp_path / "after").mkdir()
    write_start(tmp_path / "after" / "base.safetensors", made(tmp_path / "before", PLAIN, "", WIDE))
    study = made(tmp_path / "after", PLAIN, transfer, WIDE)
    with pytest.raises(UsageError, match=said):
        check_patterns(study)

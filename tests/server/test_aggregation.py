"""The weighted mean and the server optimisers, with two sites and numbers worked out by hand."""

import io
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortium.common.errors import ProtocolError
from cohortium.common.training import Strategy
from cohortium.server.aggregation import fold
from cohortium.server.aggregation.fold import Fold
from cohortium.server.aggregation.optimizer import (
    ServerState,
    final_model,
    read,
    step,
    write,
)


def vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def folded(replies: list[tuple[np.ndarray, float]]) -> Fold:
    fold = Fold(len(replies[0][0]))
    for values, weight in replies:
        fold.add(values, weight)
    return fold


def test_two_sites_by_hand() -> None:
    fold = folded([(vector(1.0, -2.0), 300), (vector(5.0, 2.0), 100)])
    assert fold.mean().tolist() == [2.0, -1.0]
    assert fold.mean().dtype == np.float32
    assert (fold.weight_total, fold.replies) == (400, 2)


numbers = st.floats(-1e3, 1e3, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6)


@given(st.lists(st.tuples(numbers, st.integers(1, 100_000)), min_size=2, max_size=4))
def test_the_order_of_arrival_never_changes_a_bit(replies: list[tuple[float, int]]) -> None:
    orders = permutations([(vector(value), weight) for value, weight in replies])
    assert len({folded(list(order)).mean().tobytes() for order in orders}) == 1


def test_values_that_cancel_leave_the_small_one_exact() -> None:
    tiny = vector(1e-9)
    for order in permutations([(vector(1e9), 1), (tiny, 1), (vector(-1e9), 1)]):
        assert folded(list(order)).mean() == (tiny.astype(float) / 3).astype(np.float32)


def test_a_vector_longer_than_a_block_equals_numpy() -> None:
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(3, 200_001)).astype(np.float32)
    weights = [141.0, 316.0, 71.0]
    fold = folded(list(zip(updates, weights, strict=True)))
    expected = np.average(updates.astype(np.float64), axis=0, weights=weights)
    np.testing.assert_array_equal(fold.mean(), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("values", "weight"),
    [
        (vector(1.0), 1.0),
        (np.ones(2), 1.0),
        (vector(1.0, float("nan")), 1.0),
        (vector(1.0, float("inf")), 1.0),
        (vector(1.0, 1.0), 0.0),
        (vector(1.0, 1.0), float("nan")),
    ],
)
def test_a_bad_update_is_refused_and_changes_nothing(values: np.ndarray, weight: float) -> None:
    fold = folded([(vector(1.0, 2.0), 2)])
    with pytest.raises(ProtocolError):
        fold.add(values, weight)
    assert fold.mean().tolist() == [1.0, 2.0]
    assert fold.weight_total == 2


def test_averaging_nobody_is_an_error_not_a_zero_model() -> None:
    with pytest.raises(ProtocolError, match="no site replied"):
        Fold(2).mean()


def after(strategy: Strategy, *deltas: float, start: float = 1.0) -> ServerState:
    state = ServerState.start(vector(start))
    for place, delta in enumerate(deltas):
        state = step(state, vector(delta), strategy, place + 1, len(deltas))
    return state


def test_fedavg_at_rate_1_is_exactly_the_mean_of_the_sites_models() -> None:
    assert after(Strategy(), 0.1).model == np.float32(1.0) + np.float32(0.1)
    prox = Strategy(name="fedprox", proximal_mu=0.1)
    assert after(prox, 0.1).model == after(Strategy(), 0.1).model


def test_momentum_by_hand() -> None:
    strategy = Strategy(name="fedavgm", learning_rate=2.0, momentum=0.5)
    state = after(strategy, 1.0, 1.0)  # m: 1, then 1.5; w: 1 + 2 + 3
    assert (state.m.item(), state.model.item()) == (1.5, 6.0)


def test_weight_decay_comes_before_momentum() -> None:
    strategy = Strategy(name="fedavgm", momentum=0.5, weight_decay=0.25)
    assert after(strategy, 1.0, 0.0).model.item() == 1.0 + 0.75 + (0.375 - 0.25 * 1.75)


@pytest.mark.parametrize(
    ("name", "v", "w"),
    [
        # D = 2, then 1; m = 0.2, then 0.28
        ("fedadam", 0.001 * 4 * 0.999 + 0.001, 0.2 / 0.004**0.5 + 0.28 / 0.004996**0.5),
        ("fedyogi", 0.004 + 0.001, 0.2 / 0.004**0.5 + 0.28 / 0.005**0.5),
        ("fedadagrad", 5.0, 0.2 / 2.0 + 0.28 / 5**0.5),
    ],
)
def test_adaptive_rules_by_hand(name: str, v: float, w: float) -> None:
    strategy = Strategy.model_validate({"name": name, "learning_rate": 0.5})
    state = after(strategy, 2.0, 1.0)
    assert state.m.item() == pytest.approx(0.28)
    assert state.v.item() == pytest.approx(v, rel=1e-5)
    assert state.model.item() == pytest.approx(1.0 + 0.5 * w, rel=1e-5)


def test_yogi_lowers_v_where_adam_would_forget_it() -> None:
    state = after(Strategy(name="fedyogi"), 2.0, 0.01)  # v 0.004 is above 0.0001, so it falls
    assert state.v.item() == pytest.approx(0.004 - 0.001 * 0.0001)


def test_the_final_model_averages_the_last_share_of_the_rounds() -> None:
    models = after(Strategy(average_last=0.5), 1.0, 1.0, 1.0, 1.0, start=0.0)
    assert (models.tail_count, models.model.item()) == (2, 4.0)
    assert final_model(models).item() == 3.5
    assert final_model(after(Strategy(), 1.0, 1.0)).item() == 3.0


def test_a_fold_on_disk_gives_the_same_bits_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "ON_DISK_BYTES", 1000)
    rng = np.random.default_rng(7)
    vectors = [rng.normal(size=3 * fold.BLOCK + 17).astype(np.float32) for _ in range(3)]
    on_disk, in_memory = Fold(len(vectors[0]), tmp_path), Fold(len(vectors[0]))
    for weight, values in enumerate(vectors, start=1):
        on_disk.add(values, weight)
        in_memory.add(values, weight)
    assert isinstance(on_disk._sum, np.memmap)
    assert not list(tmp_path.iterdir())
    assert on_disk.mean().tobytes() == in_memory.mean().tobytes()


def written(state: ServerState) -> bytes:
    file = io.BytesIO()
    write(state, file)
    return file.getvalue()


def test_a_plain_average_checkpoints_nothing_but_the_model() -> None:
    state = ServerState.start(np.zeros(100_000, np.float32))
    state = step(state, np.ones(100_000, np.float32), Strategy(), 1, 2)
    assert len(written(state)) < 1.01 * 400_000


def test_a_resumed_study_is_bit_equal() -> None:
    strategy = Strategy(name="fedadam", average_last=0.6)
    state = after(strategy, 0.3, -0.2, 0.1)
    loaded = read(io.BytesIO(written(state)))
    ahead, again = (step(s, vector(0.7), strategy, 4, 5) for s in (state, loaded))
    assert written(ahead) == written(again)


def test_a_model_that_diverges_is_an_error() -> None:
    state = ServerState.start(vector(3e38))
    with pytest.raises(ProtocolError, match="round 7: training diverged"):
        step(state, vector(3e38), Strategy(), 7, 9)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"\x93NUMPY", b"\x80\x04K\x01."])
def test_a_damaged_checkpoint_is_one_line(damage: bytes) -> None:
    with pytest.raises(ProtocolError, match="damaged"):
        read(io.BytesIO(damage))
    whole = written(ServerState.start(vector(1.0)))
    with pytest.raises(ProtocolError, match="damaged"):
        read(io.BytesIO(whole[: len(whole) // 2]))

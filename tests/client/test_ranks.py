"""Two processes train one model as one process does; clipping and noise happen once."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.client.two_ranks import PRIVATE, every_engine, mlp
from tests.federation import PLAIN, write_study, write_ward

from cohortium.client.config import Dataset
from cohortium.client.processes import Limits, Processes
from cohortium.client.training.team import ALONE
from cohortium.client.workshop import Inline
from cohortium.common.errors import RefusedError
from cohortium.common.schema import load_schema
from cohortium.common.study import Study
from cohortium.server.coordinator import initial_model

CPU = torch.device("cpu")


def two(tmp_path: Path, device: str = "cpu") -> list[Mapping[str, Any]]:
    """What each of two processes has made."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    command = (sys.executable, "-m", "tests.client.two_ranks")
    started = [
        subprocess.Popen(
            [*command, str(tmp_path / "meeting"), str(rank), str(tmp_path / f"{rank}.npz"), device],
            env=environment,
        )
        for rank in (0, 1)
    ]
    try:
        assert [process.wait(120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return [np.load(tmp_path / f"{rank}.npz") for rank in (0, 1)]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Mapping[str, Any]]:
    return two(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return every_engine(ALONE, CPU)


@pytest.mark.parametrize("engine", ["plain", "private", "full", "loss"])
def test_two_processes_do_what_one_does(
    both: list[Mapping[str, Any]], alone: dict[str, Any], engine: str
) -> None:
    assert both[0][engine] == pytest.approx(alone[engine], abs=1e-6)
    assert np.abs(alone[engine]).max() > 0.001


@pytest.mark.parametrize("engine", ["plain", "private", "coins", "gan", "noise"])
def test_both_end_with_the_same_bits_whoever_draws(
    both: list[Mapping[str, Any]], engine: str
) -> None:
    assert both[0][engine].tobytes() == both[1][engine].tobytes()


def test_noise_is_added_once(both: list[Mapping[str, Any]]) -> None:
    expected = 2.0 * PRIVATE.clip_norm / PRIVATE.expected_batch_size
    scale = both[0]["noise"].std(dtype=np.float64) / expected
    assert abs(scale - 1) < 0.01  # twice would be 1.41


def test_a_model_in_two_halves_learns_the_same(
    both: list[Mapping[str, Any]], alone: dict[str, Any]
) -> None:
    assert both[0]["sharded"] == pytest.approx(alone["plain"], abs=1e-6)
    parameters = sum(parameter.numel() for parameter in mlp().parameters())
    assert max(one["held"] for one in both) < 0.6 * parameters


def workshop(tmp_path: Path, processes: int, sharded: bool = False) -> tuple[Processes, list[str]]:
    said: list[str] = []
    made = Processes(
        "a",
        Limits("cpu", 2, 8 * 2**30, 2, processes, sharded),
        tmp_path,
        lambda _: ward(tmp_path),
        halted=lambda _: None,
        on_start=lambda _, words: said.append(words),
    )
    return made, said


def ward(tmp_path: Path) -> Dataset:
    schema = load_schema(tmp_path / "schema.toml")
    return Dataset("ward", tmp_path / "ward.csv", schema, 10.0, 1e-5)


def plain_study(tmp_path: Path) -> Study:
    write_ward(tmp_path / "ward.csv", seed=1)
    (tmp_path / "keys").mkdir()
    return write_study(tmp_path, PLAIN)


@pytest.mark.slow
def test_a_confined_site_trains_in_two_processes_and_again_after_one_died(
    tmp_path: Path,
) -> None:
    study = plain_study(tmp_path)
    start = initial_model(study)
    expected = Inline("a", "cpu", lambda _: ward(tmp_path)).train(study, None, start, 2).delta
    together, said = workshop(tmp_path, 2)
    try:
        for _ in range(2):
            found = together.train(study, None, start, 2).delta
            assert found == pytest.approx(expected, abs=1e-6)
        assert "no network but between its own processes" in said[0] or "NETWORK OPEN" in said[0]
        first = next(iter(together._workers.values())).pid
        (other,) = children(first)
        os.kill(other, 9)
        with pytest.raises(RefusedError, match="cannot reach each other, or one"):
            together.train(study, None, start, 3)
        assert together.train(study, None, start, 2).delta == pytest.approx(expected, abs=1e-6)
        (other,) = children(first)
    finally:
        together.close_all()
    assert not alive(other)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False

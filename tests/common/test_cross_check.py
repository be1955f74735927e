"""The second opinion on epsilon: another program's, an upper bound where that fails, never ours."""

from typing import NoReturn

import pytest

from cohortium.common.privacy import accounting, cross_check
from cohortium.common.privacy.accounting import Mechanism


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    cross_check._checked.cache_clear()


def poisson(rate: float, sigma: float, steps: int) -> Mechanism:
    return Mechanism(sampler="poisson", sample_rate=rate, noise_multiplier=sigma, steps=steps)


def full_batch(sigma: float, steps: int = 1) -> Mechanism:
    return Mechanism(sampler="full-batch", sample_rate=1.0, noise_multiplier=sigma, steps=steps)


@pytest.mark.parametrize(
    ("mechanisms", "name"),
    [
        ([poisson(0.01, 1.0, 2000)], "Opacus PRV"),
        ([poisson(0.05, 1.5, 600)], "Opacus PRV"),
        ([poisson(0.01, 1.0, 2000), full_batch(9.0, 4)], "Opacus PRV"),
        ([full_batch(5.0, 10)], "dp-accounting PLD"),
        ([full_batch(50.0, 1000)], "dp-accounting PLD"),
        ([full_batch(0.5, 3)], "dp-accounting PLD"),
    ],
)
def test_another_program_says_the_same(mechanisms: list[Mechanism], name: str) -> None:
    found = cross_check.cross_check(mechanisms, 1e-5)
    assert found is not None
    assert found.agrees
    assert found.accountant.name == name
    ours = accounting.epsilon(mechanisms, 1e-5)
    assert -1e-4 < float(found.epsilon) - ours < 0.02


def test_prv_that_fails_gives_way_to_an_upper_bound_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> NoReturn:
        raise RuntimeError("Discrete mean differs significantly from continuous mean.")

    monkeypatch.setattr(cross_check, "_by_prv", fails)
    found = cross_check.cross_check([poisson(0.01, 1.0, 2000)], 1e-5)
    assert found is not None
    assert (found.agrees, found.accountant.name) == (True, "Opacus RDP")
    assert found.accountant.settings["bound"] == "upper"
    assert "Discrete mean differs" in found.accountant.settings["prv"]
    assert float(found.epsilon) == pytest.approx(2.867, abs=2e-3)


def test_an_epsilon_that_prv_takes_gigabytes_for_is_only_bounded() -> None:
    found = cross_check.cross_check([poisson(0.5, 0.7, 300)], 1e-5)
    assert found is not None
    assert found.accountant.settings["prv"] == "failed: epsilon above 20"


@pytest.mark.parametrize("wrong", [0.97, 1.03, 1.2])
@pytest.mark.parametrize("mechanism", [poisson(0.05, 1.5, 600), full_batch(2.0, 3)])
def test_a_wrong_accountant_of_ours_is_disagreed_with(
    monkeypatch: pytest.MonkeyPatch, mechanism: Mechanism, wrong: float
) -> None:
    honest = accounting.epsilon
    monkeypatch.setattr(accounting, "epsilon", lambda *given: wrong * honest(*given))
    found = cross_check.cross_check([mechanism], 1e-5)
    assert found is not None
    assert not found.agrees


def test_nothing_to_run_has_no_second_opinion() -> None:
    assert cross_check.cross_check([], 1e-5) is None
    assert cross_check.cross_check([full_batch(1.0, 0)], 1e-5) is None


def test_without_opacus_there_is_none_for_poisson_and_one_for_full_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cross_check, "find_spec", lambda _: None)
    assert cross_check.cross_check([poisson(0.01, 1.0, 20)], 1e-5) is None
    assert cross_check.cross_check([full_batch(5.0)], 1e-5) is not None

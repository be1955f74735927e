"""What ran, as dp-accounting writes it: JSON that gives the same mechanism back to the last bit."""

import json
from typing import Any

import pytest
from dp_accounting import dp_event
from hypothesis import given
from hypothesis import strategies as st

from cohortium.common.errors import DocumentError
from cohortium.common.privacy import interchange
from cohortium.common.privacy.accounting import (
    Mechanism,
    dp_json,
    from_dp_json,
    gaussian_mu,
    in_words,
    true_positive_rate,
)

RATES = st.floats(1e-9, 1.0, exclude_max=True)
NOISE = st.floats(0.0, 1e12)
STEPS = st.integers(0, 10**12)


@given(RATES, NOISE, STEPS)
def test_a_poisson_sample_comes_back_as_it_was(rate: float, noise: float, steps: int) -> None:
    mechanism = Mechanism(sampler="poisson", sample_rate=rate, noise_multiplier=noise, steps=steps)
    text = json.dumps(dp_json(mechanism))
    assert from_dp_json(json.loads(text)) == mechanism.event()


@given(NOISE, STEPS)
def test_a_full_batch_comes_back_as_it_was(noise: float, steps: int) -> None:
    mechanism = Mechanism(
        sampler="full-batch", sample_rate=1.0, noise_multiplier=noise, steps=steps
    )
    values = dp_json(mechanism)
    assert from_dp_json(values) == mechanism.event()
    assert values["event"]["type"] == "Gaussian"


def test_the_form_is_the_one_that_is_documented() -> None:
    mechanism = Mechanism(sampler="poisson", sample_rate=0.04, noise_multiplier=1.1, steps=25)
    assert dp_json(mechanism) == {
        "type": "SelfComposed",
        "count": 25,
        "event": {
            "type": "PoissonSampled",
            "sampling_probability": "0.04",
            "event": {"type": "Gaussian", "noise_multiplier": "1.1"},
        },
    }


GAUSSIAN = {"type": "Gaussian", "noise_multiplier": "1.0"}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"type": "Laplace", "noise_multiplier": "1.0"},
        {"type": "Gaussian"},
        {"type": "Gaussian", "noise_multiplier": 1.0},
        {"type": "Gaussian", "noise_multiplier": "-1.0"},
        {"type": "Gaussian", "noise_multiplier": "nan"},
        {"type": "Gaussian", "noise_multiplier": "one"},
        {**GAUSSIAN, "more": 1},
        {"type": "SelfComposed", "count": 1.0, "event": GAUSSIAN},
        {"type": "SelfComposed", "count": True, "event": GAUSSIAN},
        {"type": "SelfComposed", "count": -1, "event": GAUSSIAN},
        {"type": "PoissonSampled", "sampling_probability": "1.1", "event": GAUSSIAN},
        {"type": "PoissonSampled", "sampling_probability": "0.1", "event": "Gaussian"},
    ],
)
def test_anything_else_is_one_line_and_no_mechanism(wrong: dict[str, Any]) -> None:
    with pytest.raises(DocumentError, match="dp: ") as caught:
        from_dp_json(wrong)
    assert "\n" not in str(caught.value)


def test_an_event_that_we_do_not_run_is_not_written() -> None:
    with pytest.raises(TypeError, match="LaplaceDpEvent"):
        interchange.to_json(dp_event.LaplaceDpEvent(1.0))


def poisson(rate: float, noise: float, steps: int) -> Mechanism:
    return Mechanism(sampler="poisson", sample_rate=rate, noise_multiplier=noise, steps=steps)


def full_batch(noise: float, steps: int = 1) -> Mechanism:
    return Mechanism(sampler="full-batch", sample_rate=1.0, noise_multiplier=noise, steps=steps)


@pytest.mark.parametrize(
    ("mechanism", "alarms", "percent"),
    [
        (poisson(0.01, 1.0, 2000), 0.01, "4.3"),  # the design's 4.2, rounded so that it is at most
        (poisson(0.01, 1.0, 2000), 0.001, "0.7"),
        (poisson(0.01, 1.0, 2000), 0.05, "14.7"),
        (poisson(0.05, 1.5, 600), 0.01, "8.1"),
        (full_batch(1.0), 0.01, "9.3"),  # Phi(Phi^-1(0.01) + 1) = 9.2366 %
        (full_batch(0.0), 0.01, "100.0"),
        (poisson(0.5, 0.5, 500), 0.01, "100.0"),
    ],
)
def test_epsilon_in_words_never_says_less_than_an_attacker_finds(
    mechanism: Mechanism, alarms: float, percent: str
) -> None:
    words = in_words([mechanism], alarms)
    assert words == (
        f"an attacker who accepts {alarms * 100:g}% false alarms finds a member in at most "
        f"{percent}% of cases"
    )
    assert float(percent) / 100 >= true_positive_rate([mechanism], alarms) - 1e-12


def test_of_nothing_spent_an_attacker_finds_as_many_as_there_are_false_alarms() -> None:
    assert in_words([]).endswith("at most 1.0% of cases")


def test_mu_is_said_only_where_it_says_all() -> None:
    assert gaussian_mu([full_batch(3.0, 9)]) == pytest.approx(1.0, rel=1e-12)
    assert gaussian_mu([]) == 0.0
    assert gaussian_mu([full_batch(3.0), poisson(0.1, 3.0, 1)]) is None
    assert gaussian_mu([full_batch(0.0)]) is None

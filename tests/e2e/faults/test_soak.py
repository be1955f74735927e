"""A few rounds of the soak; `python -m benchmarks.soak` is the whole."""

from pathlib import Path

import pytest
from benchmarks.soak import soak


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_under_random_kills_ends_with_the_model_of_the_undisturbed_one(
    tmp_path: Path,
) -> None:
    outcome = soak(tmp_path, rounds=15, seed=7, every_s=3.0)
    assert outcome.same
    assert outcome.strikes

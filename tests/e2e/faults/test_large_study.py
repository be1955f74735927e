"""A whole round of a study with a model of 500 MB, in little memory at coordinator and site."""

from pathlib import Path

import pytest
from tests.e2e.deployment import deployment, write_patient_study
from tests.e2e.faults.test_large_models import MODELS_IN_MEMORY, Peaks

WIDTH = 11_150
PARAMETERS = 124_000_000  # and some more
LARGE = """
[training]
rounds = 1
batches = "shuffle"
batch_size = 64
learning_rate = 0.01

[privacy]
mechanism = "none"
"""
CHANGES = {
    'name = "logistic"': f'name = "mlp"\nhidden = [{WIDTH}, {WIDTH}]\nactivation = "relu"',
    '["a", "b", "c"]': '["a", "b"]',
    "round_deadline = 60.0": 'round_deadline = "20m"',
}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_study_with_a_model_of_500_mb_holds_less_than_three_at_each_side(tmp_path: Path) -> None:
    with deployment(tmp_path) as made:
        made.start_coordinator()
        made.start_sites("a", "b")
        write_patient_study(tmp_path, LARGE, name="large", changes=CHANGES)
        pids = {name: running.process.pid for name, running in made.daemons.items()}
        with Peaks(pids) as peaks:
            made.submit(tmp_path / "study.toml")
            made.approve("large", "a", "b")
            result = made.finish("large", timeout_s=1200)
        assert result.code == 0, result
        assert result.lines[0]["replied"] in (["a", "b"], ["b", "a"])
    models = {name: size / (4 * PARAMETERS) for name, size in peaks.over_idle.items()}
    print(f"{result.lines[0]['seconds']:.0f} s; models of memory over idle: {models}")
    assert max(models.values()) < MODELS_IN_MEMORY, models

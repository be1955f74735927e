"""The benchmark of models times every family that is trained by the three engines."""

from benchmarks.models import CASES, measure

from cohortium.common.models.building import BUILDERS


def test_a_step_of_each_engine_takes_time_and_every_family_has_its_row() -> None:
    row = measure("logistic", steps=1)
    assert min(row.plain_ms, row.poisson_ms, row.full_ms) > 0
    assert row.parameters == 21
    alike = {"linear", "cox", "autoencoder", "vae", "gan"}  # as logistic, as mlp; and no classifier
    assert set(BUILDERS) - alike == set(CASES)

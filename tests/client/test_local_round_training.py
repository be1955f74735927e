"""What a study says of training is what a site's round does."""

from pathlib import Path

import numpy as np
import pytest
from tests.federation import FULL, PLAIN, PRIVATE, make_site, write_study

from cohortium.client import local_round
from cohortium.client.cohort import Cohort, load_table, prepare
from cohortium.client.local_round import private_plan
from cohortium.client.training.optimiser import Optimiser
from cohortium.common.errors import RefusedError
from cohortium.common.identity import SigningKey
from cohortium.common.study import Study
from cohortium.server.coordinator import initial_model

CRAFT = """optimiser = "adamw"
schedule = "cosine"
warmup_rounds = 1
final_share = 0.1
accumulate = 3
precision = "bfloat16"
sampling = "over"
"""


def cohort_of(tmp_path: Path, study: Study, patients: int = 200) -> Cohort:
    site = make_site(tmp_path / "a", "a", SigningKey.generate().public, patients=patients)
    dataset = site.directory.load_dataset("ward")
    site.database.close()
    return prepare(load_table(study, dataset, "a"), study, "a")


def delta(study: Study, cohort: Cohort, number: int = 2) -> np.ndarray:
    return local_round.train(study, cohort, initial_model(study), number, "a", "cpu").delta


def with_training(part: str, more: str) -> str:
    return part.replace("[training]\n", f"[training]\n{more}")


def test_a_round_with_everything_gives_the_same_bits_twice(tmp_path: Path) -> None:
    study = write_study(tmp_path, with_training(PLAIN, CRAFT))
    text = (tmp_path / "study.toml").read_text()
    assert "dropout" not in text
    model = study.model.model_copy(update={"name": "mlp", "hidden": (8,), "dropout": 0.3})
    study = study.model_copy(update={"model": model})
    cohort = cohort_of(tmp_path, study)
    first, second = delta(study, cohort), delta(study, cohort)
    assert first.tobytes() == second.tobytes()
    assert delta(study, cohort, 3).tobytes() != first.tobytes()


def test_each_round_has_the_rate_of_its_schedule(tmp_path: Path) -> None:
    plain = write_study(tmp_path, PLAIN.replace("local_steps = 10", "local_steps = 1"))
    cohort = cohort_of(tmp_path, plain)
    changed = {"schedule": "linear", "warmup_rounds": 1}
    scheduled = plain.model_copy(update={"training": plain.training.model_copy(update=changed)})
    for number, share in ((1, 1 / 2), (2, 1.0), (3, 2 / 3), (4, 1 / 3)):
        expected = share * delta(plain, cohort, number)
        assert delta(scheduled, cohort, number) == pytest.approx(expected, abs=1e-6)


def test_private_rounds_have_the_optimiser_the_schedule_and_the_weights(tmp_path: Path) -> None:
    more = 'optimiser = "adam"\nschedule = "linear"\nclass_weights = [1.0, 3.0]\nl1 = 0.01\n'
    study = write_study(tmp_path, with_training(PRIVATE, more))
    plan = private_plan(study, 100, 3)
    assert plan.optimiser == Optimiser(0.25, 0.0, 0.0, "adam", l1=0.01)
    assert plan.class_weights == (1.0, 3.0)


def test_l1_of_a_full_batch_is_behind_its_noise(tmp_path: Path) -> None:
    part = FULL.replace('mechanism = "gaussian"', 'mechanism = "none"')
    part = "\n".join(k for k in part.splitlines() if k[:5] not in ("epsil", "delta", "clip_"))
    study = write_study(tmp_path, part)
    cohort, start = cohort_of(tmp_path, study), initial_model(study)
    training = study.training.model_copy(update={"l1": 0.25})
    found = delta(study.model_copy(update={"training": training}), cohort)
    assert found == pytest.approx(delta(study, cohort) - 0.25 * np.sign(start), abs=1e-6)


def test_a_batch_larger_than_a_site_is_refused_there_without_its_number(tmp_path: Path) -> None:
    for patients in (160, 250):  # that train are 107 and 173 of them
        study = write_study(tmp_path, PLAIN.replace("batch_size = 16", "batch_size = 142"))
        with pytest.raises(RefusedError) as refused:
            cohort_of(tmp_path / str(patients), study, patients)
        assert refused.value.rule == "data.batch"
        assert "batch_size = 142 is too much for a site with 100-199" in refused.value.explanation
    study = write_study(tmp_path, PLAIN.replace("batch_size = 16", "batch_size = 141"))
    assert cohort_of(tmp_path / "fits", study, 160).patients < 141

"""A study through the real codec, policy, ledger and training, without sockets."""

from pathlib import Path

import numpy as np
from tests.federation import PLAIN, PRIVATE, approve, federate, write_study

from cohortium.server.coordinator import run_study

UNPROTECTED = {"allow_unprotected": "true"}


def test_a_private_study_learns_and_every_site_spends_what_was_agreed(tmp_path: Path) -> None:
    study = write_study(tmp_path, PRIVATE)
    federation = federate(tmp_path)
    for site in federation.sites.values():
        approve(site, study)
    run_study(study, federation.desk(study))
    *_, last = federation.store.rounds(study.digest)
    assert last.summary is not None
    assert last.summary.auroc.unweighted is not None
    assert last.summary.auroc.unweighted > 0.9
    assert {site: spent.steps for site, spent in last.spent.items()} == dict.fromkeys("abc", 20)
    assert all(2.9 < spent.epsilon <= 3.0 for spent in last.spent.values())
    assert federation.store.study(study.name).state == "completed"


def test_without_noise_a_study_run_twice_gives_the_same_bits(tmp_path: Path) -> None:
    models = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        study = write_study(tmp_path / name, PLAIN)
        federation = federate(tmp_path / name, policy=UNPROTECTED)
        for site in federation.sites.values():
            approve(site, study)
        models.append(run_study(study, federation.desk(study)))
    assert np.array_equal(models[0], models[1])

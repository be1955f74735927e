"""A whole site, made up and thrown away, that answers a made-up coordinator: is all entered?"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch.optim.optimizer import register_optimizer_step_post_hook

from cohortium.client import rounds
from cohortium.client.config import CoordinatorPeer, DatasetConfig, SiteDir, site_toml
from cohortium.client.site import Site, open_site
from cohortium.common import arrays
from cohortium.common.document import parse
from cohortium.common.envelope import Header, seal
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Train, kind_of, pack
from cohortium.common.models.building import study_module
from cohortium.common.study import Study

PATIENTS, ROUNDS, LOCAL_STEPS = 120, 3, 4
COORDINATOR, SITE, DATASET = "nobody", "made-up", "made-up"
SCHEMA = """
name = "made-up"
[columns.marker]
kind = "number"
low = 0
high = 10
[columns.ill]
kind = "flag"
"""
COLUMNS = {
    "marker": {"kind": "number", "low": 0.0, "high": 10.0},
    "ill": {"kind": "flag"},
}


def ledger_and_steps() -> tuple[int, int]:
    """Steps that the ledger holds after some rounds, and those that optimisers really took.

    The site has the real database, policy, approval, ledger and workshop; every request is signed.
    """
    with tempfile.TemporaryDirectory(prefix="cohortium-selftest-") as folder:
        key = SigningKey.generate()
        site = _site(Path(folder), key)
        with site.database:
            study = _study()
            site.studies.receive(study, site.now_ms())
            site.studies.mark(study.digest, "approved", "made up by the self-test")
            site.sign(study, "the self-test")
            with _counted() as taken:
                for number in range(1, ROUNDS + 1):
                    rounds.answer(_request(study, number, key), site)
            entered = sum(entry.mechanism.steps for entry in site.ledger(study).entries())
            return entered, len(taken)


@contextmanager
def _counted() -> Iterator[list[None]]:
    """Grows by one with every step of any of torch's optimisers."""
    taken: list[None] = []
    hook = register_optimizer_step_post_hook(lambda *_: taken.append(None))
    try:
        yield taken
    finally:
        hook.remove()


def _request(study: Study, number: int, key: SigningKey) -> bytes:
    model = arrays.flatten(study_module(study))
    header = Header(
        kind=kind_of(Train),
        study=study.digest,
        round=number,
        message_id=f"{number:032x}",
        sender=COORDINATOR,
        recipient=SITE,
        sent_ms=0,
    )
    return seal(header, pack(Train(), model), key)


def _site(root: Path, coordinator: SigningKey) -> Site:
    """As `join` and `data add` leave one, for patients who never were."""
    directory = SiteDir(root)
    directory.signing_key.parent.mkdir(parents=True)
    SigningKey.generate().save(directory.signing_key)
    peer = CoordinatorPeer(
        name=COORDINATOR,
        fleet_address="",
        signing_key=coordinator.public.text,
        ca_fingerprint="",
    )
    directory.config.write_text(
        site_toml(SITE, peer).replace("purposes = []", 'purposes = ["GRU"]')
    )
    (root / "schema.toml").write_text(SCHEMA)
    marker = np.random.default_rng(0).uniform(0, 10, PATIENTS)
    rows = [f"{value:.2f},{int(value > 5)}" for value in marker]
    (root / "table.csv").write_text("\n".join(["marker,ill", *rows, ""]))
    config = DatasetConfig(
        path=root / "table.csv", schema_file=root / "schema.toml", epsilon_cap=10.0, delta_cap=1e-5
    )
    directory.write_dataset(DATASET, config)
    return open_site(root)


def _study() -> Study:
    values = {
        "name": "selftest",
        "purpose": {"text": "to test the site", "duo": "GRU", "legal_basis": "nobody's data"},
        "data": {"dataset": DATASET, "features": ["marker"]},
        "data_model": {"name": "made-up", "columns": COLUMNS},
        "task": {"kind": "binary", "label": "ill", "positive_codes": ["1"]},
        "model": {"name": "logistic"},
        "split": {"test_fraction": 0.2},
        "training": {
            "rounds": ROUNDS,
            "batches": "poisson",
            "local_steps": LOCAL_STEPS,
            "sample_rate": 0.2,
            "learning_rate": 0.5,
        },
        "privacy": {"mechanism": "gaussian", "epsilon": 3.0, "delta": 1e-5, "clip_norm": 1.0},
        "sites": {"names": [SITE], "min_sites": 1},
    }
    return parse(values, Study, "self-test")

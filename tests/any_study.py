"""Any study on any tables, in one process: real sites, policy and ledger, no sockets."""

from collections.abc import Mapping
from pathlib import Path

from tests.federation import Federation, approve, coordinate, make_any_site

from cohortium.client.config import DatasetConfig
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Vector
from cohortium.common.study import Study, load_study
from cohortium.server.coordinator import run_study

ALLOW = {
    "purposes": '["HMB", "GRU"]',
    "allow_unprotected": "true",
    "allow_exact_counts": "true",
    "allow_explanations": "true",
    "minimum_patients": "5",
    "minimum_cell": "2",
    "max_rounds": "1000",
    "max_epsilon_per_study": "20.0",
}


def write_documents(root: Path, schema: str, study: str) -> Study:
    """schema.toml and study.toml below `root`; the loaded study."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "schema.toml").write_text(schema)
    (root / "study.toml").write_text(study)
    return load_study(root / "study.toml")


def federation_of(
    root: Path,
    study: Study,
    tables: Mapping[str, Path],
    policy: Mapping[str, str] | None = None,
    epsilon_cap: float = 30.0,
) -> Federation:
    """A coordinator, and a site for each table, that have all approved the study.

    Args:
        root: where `write_documents` put the study.
    """
    key = SigningKey.generate()
    sites = {}
    for name, table in tables.items():
        config = DatasetConfig(
            path=table,
            schema_file=root / "schema.toml",
            epsilon_cap=epsilon_cap,
            delta_cap=study.privacy.delta or 1e-5,
        )
        datasets = {study.data.dataset: config}
        allowed = {**ALLOW, **(policy or {})}
        sites[name] = make_any_site(root / "sites" / name, name, key.public, datasets, allowed)
        approve(sites[name], study)
    return coordinate(root, key, sites)


def run(study: Study, federation: Federation) -> Vector:
    """The study's final model."""
    return run_study(study, federation.desk(study))

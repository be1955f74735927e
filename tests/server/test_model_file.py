"""The model's file is the one that safetensors writes, and is never in memory as a whole."""

import json
import tracemalloc
from pathlib import Path

import pytest
from safetensors.torch import load_file, save
from tests.federation import PLAIN, Federation, approve, federate, write_study

from cohortium.common import arrays
from cohortium.common.models.building import build_seeded
from cohortium.common.study import Study, load_study
from cohortium.server.coordinator import run_study
from cohortium.server.model_file import describe, final_vector, pieces

QUICK = PLAIN.replace("rounds = 4", "rounds = 1").replace("local_steps = 10", "local_steps = 1")


def trained(root: Path, hidden: str) -> tuple[Study, Federation]:
    root.mkdir()
    federation = federate(root, policy={"allow_unprotected": "true"}, patients=60)
    write_study(root, QUICK)
    text = (root / "study.toml").read_text()
    changed = text.replace('name = "logistic"', f'name = "mlp"\nhidden = {hidden}')
    (root / "study.toml").write_text(changed)

    study = load_study(root / "study.toml")
    for site in federation.sites.values():
        approve(site, study)
    run_study(study, federation.desk(study))
    return study, federation


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Federation]:
    return trained(tmp_path_factory.mktemp("small") / "here", "[5, 3]")


def test_the_file_is_the_one_that_safetensors_writes(small: tuple[Study, Federation]) -> None:
    study, federation = small
    row = federation.store.study(study.name)
    found = b"".join(pieces(row, federation.store))
    module = build_seeded(study.model, study.layout, study.outputs, 0)
    arrays.load_into(module, final_vector(row, federation.store))
    length = int.from_bytes(found[:8], "little")
    metadata = json.loads(found[8 : 8 + length])["__metadata__"]
    assert found == save(dict(module.state_dict()), metadata=metadata)
    assert describe(row, federation.store).bytes == len(found)


def test_whoever_reads_it_gets_the_final_model(
    small: tuple[Study, Federation], tmp_path: Path
) -> None:
    study, federation = small
    row = federation.store.study(study.name)
    (tmp_path / "model.safetensors").write_bytes(b"".join(pieces(row, federation.store)))
    module = build_seeded(study.model, study.layout, study.outputs, 1)
    module.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert arrays.flatten(module).tolist() == final_vector(row, federation.store).tolist()


def test_a_large_model_is_in_memory_less_than_three_times(tmp_path: Path) -> None:
    study, federation = trained(tmp_path / "large", "[1500, 1500]")
    row = federation.store.study(study.name)
    describe(row, federation.store)  # imports
    tracemalloc.start()
    found = describe(row, federation.store)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.bytes is not None
    assert peak < 3 * found.bytes

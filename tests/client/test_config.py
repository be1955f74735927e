"""The files of a site's directory: wrong ones are named, key by key, and never half-written."""

from pathlib import Path

import pytest
from tests.federation import SCHEMA

from cohortium.client.config import (
    CoordinatorPeer,
    DatasetConfig,
    Policy,
    SiteDir,
    site_toml,
    write_whole,
)
from cohortium.common.errors import DocumentError, UsageError

PEER = CoordinatorPeer(
    name="consortium", fleet_address="127.0.0.1:1", signing_key="k", ca_fingerprint="f"
)


@pytest.fixture
def directory(tmp_path: Path) -> SiteDir:
    (tmp_path / "site.toml").write_text(site_toml("north", PEER))
    return SiteDir(tmp_path)


def edit(directory: SiteDir, old: str, new: str) -> None:
    text = directory.config.read_text()
    assert old in text
    directory.config.write_text(text.replace(old, new))


def test_the_first_site_toml_allows_nothing_and_is_the_default_policy(directory: SiteDir) -> None:
    config = directory.load_config()
    assert config.policy == Policy()
    assert config.policy.purposes == ()
    assert not config.policy.allow_unprotected
    assert not config.policy.allow_exact_counts
    assert config.coordinator == PEER


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("purposes = []", 'purposes = "HMB"', "policy.purposes"),
        ("purposes = []", 'purposes = ["XXX"]', "policy.purposes: ['XXX'] are no Data Use"),
        ("max_rounds", "max_ronds", 'unknown key "policy.max_ronds"; did you mean "max_rounds"?'),
        ("max_rounds = 100", 'max_rounds = "100"', "policy.max_rounds"),
        ("minimum_cell = 10", "minimum_cell = -1", "policy.minimum_cell"),
        ("allow_unprotected = false", 'allow_unprotected = "false"', "policy.allow_unprotected"),
        ("allow_unprotected = false", "allow_unprotected = 0", "policy.allow_unprotected"),
        ("[policy]", "[polciy]", 'unknown key "polciy"; did you mean "policy"?'),
        ("[policy]", "[policy", "not valid TOML"),
        ('device = "auto"', 'device = "gpu"', "device"),
        ("threads = 1", "threads = 0", "threads"),
        ('name = "north"', 'name = "no/rth"', "name"),
        ('fleet_address = "127.0.0.1:1"', "", '"coordinator.fleet_address" is missing'),
    ],
)
def test_a_wrong_site_toml_names_the_key(directory: SiteDir, old: str, new: str, says: str) -> None:
    edit(directory, old, new)
    with pytest.raises(DocumentError) as caught:
        directory.load_config()
    assert says in str(caught.value)
    assert str(directory.config) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory_that_is_no_sites_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cohortium site join"):
        SiteDir(tmp_path).load_config()


def config(tmp_path: Path, cap: float = 5.0) -> DatasetConfig:
    return DatasetConfig(
        path=tmp_path / "ward.csv",
        schema_file=tmp_path / "schema.toml",
        epsilon_cap=cap,
        delta_cap=1e-5,
    )


def test_a_registered_dataset_is_read_back_with_its_schema(
    tmp_path: Path, directory: SiteDir
) -> None:
    (tmp_path / "schema.toml").write_text(SCHEMA)
    assert directory.datasets() == ()
    directory.write_dataset("ward", config(tmp_path))
    directory.write_dataset("my.clinic-2", config(tmp_path, cap=0.125))
    assert directory.datasets() == ("my.clinic-2", "ward")
    assert directory.load_dataset("my.clinic-2").epsilon_cap == 0.125
    assert directory.load_dataset("ward").data_model.name == "ward"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("epsilon_cap = 5.0", "epsilon_cap = 5", None),
        ("epsilon_cap = 5.0", "epsilon_cap = 0", "epsilon_cap"),
        ("epsilon_cap = 5.0", "epsilon_cap = inf", "epsilon_cap"),
        ("epsilon_cap = 5.0", "epsilon_cap = true", "epsilon_cap"),
        ("delta_cap = 1e-05", "delta_cap = 0.1", "delta_cap"),
        ("epsilon_cap = 5.0", "epsilon_cpa = 5.0", 'did you mean "epsilon_cap"?'),
    ],
)
def test_a_dataset_file_edited_by_hand_is_checked(
    tmp_path: Path, directory: SiteDir, old: str, new: str, says: str | None
) -> None:
    (tmp_path / "schema.toml").write_text(SCHEMA)
    directory.write_dataset("ward", config(tmp_path))
    path = directory.dataset("ward")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    if says is None:
        assert directory.load_dataset("ward").epsilon_cap == 5.0
        return
    with pytest.raises(DocumentError) as caught:
        directory.load_dataset("ward")
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_dataset_that_is_not_there_names_those_that_are(
    tmp_path: Path, directory: SiteDir
) -> None:
    with pytest.raises(DocumentError, match=r'no dataset "ward" .*known: none'):
        directory.load_dataset("ward")
    directory.write_dataset("clinic", config(tmp_path))
    with pytest.raises(DocumentError, match=r"known: clinic"):
        directory.load_dataset("ward")
    with pytest.raises(DocumentError, match=r"schema\.toml: no such file"):
        directory.load_dataset("clinic")


def test_a_file_is_replaced_whole_and_no_draft_stays(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.toml"
    write_whole(path, "one")
    write_whole(path, "two")
    assert path.read_text() == "two"
    assert [item.name for item in path.parent.iterdir()] == ["file.toml"]

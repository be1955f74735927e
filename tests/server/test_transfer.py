"""Studies that begin with given parameters, and train some of them only."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.any_study import federation_of, run
from tests.federation import FULL, PLAIN, PRIVATE, Federation, write_study, write_ward

from cohortium.common import arrays
from cohortium.common.envelope import unseal
from cohortium.common.errors import DocumentError, UsageError
from cohortium.common.models.building import study_module
from cohortium.common.study import Study, load_study, start_file
from cohortium.server.aggregation.optimizer import ServerState
from cohortium.server.checkpoints import Checkpoints
from cohortium.server.starting import check_patterns, start_vector

MLP = '[model]\nname = "mlp"\nhidden = [5]\n'
LINEAR = '[model]\nname = "logistic"\n'
FROZEN = '\n[transfer]\nfreeze = ["0.*"]\n'


def made(
    root: Path, training: str, transfer: str, model: str = MLP, sites: str = "names = ["
) -> Study:
    root.mkdir(parents=True, exist_ok=True)
    write_study(root, training)
    text = (root / "study.toml").read_text().replace(LINEAR, model) + transfer
    text = text.replace("names = [", sites)
    (root / "study.toml").write_text(text)
    return load_study(root / "study.toml")


def trained(root: Path, study: Study, start: np.ndarray | None = None) -> np.ndarray:
    tables = {name: write_ward(root / f"{name}.csv", seed) for seed, name in enumerate("abc")}
    federation: Federation = federation_of(root, study, tables)
    if start is not None:
        database = federation.store.database
        desk = federation.desk(study)
        Checkpoints(database, study.digest).keep(0, ServerState.start(start))
        assert desk.store is federation.store
    model = run(study, federation)
    federation.close()
    return model


@pytest.mark.parametrize("training", [PLAIN, PRIVATE, FULL])
def test_what_is_frozen_neither_moves_nor_gets_noise(tmp_path: Path, training: str) -> None:
    study = made(tmp_path, training, FROZEN)
    check_patterns(study)
    start = arrays.flatten(study_module(study))
    moves = arrays.trained(study_module(study))
    assert 0 < moves.sum() < len(moves)
    model = trained(tmp_path, study)
    assert np.array_equal(model[~moves], start[~moves])
    assert (model[moves] != start[moves]).all()


def test_models_without_one_site_each_freeze_the_same(tmp_path: Path) -> None:
    study = made(tmp_path, FULL + "\n[evaluation]\nleave_one_site_out = true\n", FROZEN)
    start = arrays.flatten(study_module(study))
    tables = {name: write_ward(tmp_path / f"{name}.csv", seed) for seed, name in enumerate("abc")}
    federation = federation_of(tmp_path, study, tables)
    run(study, federation)
    checkpoints = Checkpoints(federation.store.database, study.digest)
    assert len(checkpoints.rounds()) == study.rounds_in_all == 12
    for number in checkpoints.rounds():
        model = checkpoints.load(number).model
        assert np.array_equal(model[6:], start[6:])
        assert (model[:6] != start[:6]).all()
    asked = [
        unseal(request, federation.key.public)[0] for _, request, _ in federation.transport.wire
    ]
    assert [(one.recipient, one.round) for one in asked if one.kind == "hold"] == [
        ("a", 1),
        ("b", 1),
        ("c", 1),
    ]
    federation.close()


def write_start(path: Path, study: Study, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """A file with every parameter of the study's model, moved a little."""
    tensors = {
        name: (p.detach().numpy() + 0.25).astype(np.float32)
        for name, p in study_module(study).named_parameters()
    }
    tensors.update(changes)
    save_file(tensors, path)
    return tensors


def test_a_study_begins_with_a_file_and_a_head_of_its_own(tmp_path: Path) -> None:
    plain = made(tmp_path / "before", PLAIN, "")
    root = tmp_path / "after"
    root.mkdir()
    tensors = write_start(root / "base.safetensors", plain)
    text = '\n[transfer]\nstart = "base.safetensors"\ninitialise = ["2.*"]\nfreeze = ["0.*"]\n'
    study = made(root, PLAIN, text)
    file = start_file(root / "study.toml")
    assert file == root / "base.safetensors"
    begun = start_vector(study, file)
    parts = dict(study_module(study).named_parameters())
    assert np.array_equal(begun[6:21].reshape(5, 3), tensors["0.weight"])
    assert np.array_equal(begun[5:6], parts["2.bias"].detach().numpy())
    model = trained(root, study, begun)
    assert np.array_equal(model[6:], begun[6:])
    assert (model[:6] != begun[:6]).any()


def test_the_digest_covers_the_files_content(tmp_path: Path) -> None:
    plain = made(tmp_path / "before", PLAIN, "")
    root = tmp_path / "after"
    root.mkdir()
    text = '\n[transfer]\nstart = "base.safetensors"\n'
    write_start(root / "base.safetensors", plain)
    first = made(root, PLAIN, text)
    write_start(root / "base.safetensors", plain, **{"2.bias": np.ones(1, np.float32)})
    second = load_study(root / "study.toml")
    assert first.digest != second.digest != plain.digest
    with pytest.raises(UsageError, match="changed since"):
        start_vector(first, root / "base.safetensors")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"0.weight": np.zeros((4, 3), np.float32)}, "is 4 x 3, and 5 x 3 in the study's model"),
        ({"extra": np.zeros(1, np.float32)}, "tensor extra is none of the study's model"),
        ({"2.bias": np.full(1, np.nan, np.float32)}, "something else than finite numbers"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_its_tensor(
    tmp_path: Path, changes: dict[str, np.ndarray], said: str
) -> None:
    plain = made(tmp_path / "before", PLAIN, "")
    root = tmp_path / "after"
    root.mkdir()
    write_start(root / "base.safetensors", plain, **changes)
    study = made(root, PLAIN, '\n[transfer]\nstart = "base.safetensors"\n')
    with pytest.raises(UsageError, match=said):
        start_vector(study, root / "base.safetensors")


@pytest.mark.parametrize(
    ("transfer", "said"),
    [
        ('freeze = ["encoder.*"]', 'no parameter is called "encoder'),
        ('freeze = ["*"]', "nothing left to train"),
    ],
)
def test_a_pattern_that_means_nothing_or_everything_is_refused(
    tmp_path: Path, transfer: str, said: str
) -> None:
    study = made(tmp_path, PLAIN, f"\n[transfer]\n{transfer}\n")
    with pytest.raises(UsageError, match=said):
        check_patterns(study)


def test_a_file_that_is_not_there_and_a_head_without_a_body_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"transfer\.start: .*No such file"):
        made(tmp_path / "a", PLAIN, '\n[transfer]\nstart = "gone.safetensors"\n')
    with pytest.raises(DocumentError, match="everything begins anew"):
        made(tmp_path / "b", PLAIN, '\n[transfer]\ninitialise = ["2.*"]\n')

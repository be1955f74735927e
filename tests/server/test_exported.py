"""From training to use: a federation's model is released, exported, checked and used elsewhere."""

import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.client.test_predict import ALONE
from tests.exporting import OFFICER, begin, run
from tests.federation import write_ward

from cohortium.client.data.table import read_table
from cohortium.common import arrays
from cohortium.common.cli import main
from cohortium.common.identity import SigningKey
from cohortium.common.models.building import released_module
from cohortium.common.predict import predictions
from cohortium.common.preprocessing.encode import encode_inputs
from cohortium.server.model_file import final_vector
from cohortium.server.opened import open_coordinator

NAME = "ward-study"
FILES = ["load_model.py", "model-card.md", "model.onnx", "model.safetensors", "study.json"]
PAGE = Path(__file__).parents[2] / "docs/releasing.md"


def command(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A coordinator's directory with a study that was trained, and its model's directory."""
    root = tmp_path_factory.mktemp("exported")
    home, federation = begin(root)
    run(federation, root)
    federation.close()
    signed = ("--as", OFFICER, "--override", "--reason", "to test the export")
    flags = ("--as", OFFICER)
    if command("study", "release", NAME, *flags, "--dir", home):
        assert command("study", "release", NAME, *signed, "--dir", home) == 0
    assert command("study", "export", NAME, "--out", root / "model", "--dir", home) == 0
    return home, root / "model"


@pytest.fixture
def model(exported: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(exported[1], tmp_path / "model")
    return tmp_path / "model"


def predict(model: Path, *more: str) -> int:
    table, out = model.parent / "new.csv", model.parent / "out.csv"
    if not table.exists():
        write_ward(table, seed=99, patients=40)
    return command("predict", model, "--table", table, "--out", out, *more)


def rewritten(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = model / "release.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def sign(key: SigningKey, one: dict[str, Any]) -> None:
    text = json.dumps(one["document"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    one["signature"] = key.sign((one["context"] + text).encode()).hex()


def test_what_was_trained_predicts_the_same_at_the_coordinator_by_command_and_by_loader(
    exported: tuple[Path, Path], model: Path
) -> None:
    assert predict(model) == 0
    table = model.parent / "new.csv"
    ours = list(csv.reader((model.parent / "out.csv").read_text().splitlines()))
    alone = [sys.executable, "-c", ALONE, str(model / "load_model.py"), str(table)]
    ran = subprocess.run(alone, capture_output=True, text=True, check=True)
    theirs = list(csv.reader(ran.stdout.splitlines()))

    opened = open_coordinator(exported[0])
    row = opened.store.study(NAME)
    trained = final_vector(row, opened.store)
    untrained = arrays.flatten(released_module(row.study))
    assert not np.allclose(trained, untrained)
    module = released_module(row.study)
    arrays.load_into(module, trained)
    read = read_table(table, row.study.data_model, row.study.data.features)
    with torch.no_grad():
        logits = module(torch.from_numpy(encode_inputs(read, row.study)))
    expected = predictions(row.study, logits)
    opened.database.close()

    assert ours[0] == theirs[0] == ["row", "probability"]
    assert len(ours) == len(theirs) == 41
    for lines in (ours, theirs):
        found = [float(line[1]) for line in lines[1:]]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.ptp(expected) > 0.05


def test_the_list_of_an_export_names_every_file_beside_it_and_is_logged(
    exported: tuple[Path, Path], model: Path
) -> None:
    told = json.loads((model / "release.json").read_text())
    assert sorted(path.name for path in model.iterdir()) == sorted([*FILES, "release.json"])
    assert told["export"]["document"]["files"] == {
        name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in FILES
    }
    text = json.dumps(told["export"]["document"], sort_keys=True, separators=(",", ":"))
    opened = open_coordinator(exported[0])
    (event,) = opened.log.about(opened.store.study(NAME).digest, "model.downloaded")
    opened.database.close()
    digests = {thing.t: thing.h for thing in event.obj}
    assert digests["export"] == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert digests["model"] == f"sha256:{told['export']['document']['model']}"


@pytest.mark.parametrize("name", FILES)
def test_a_file_changed_after_the_export_is_refused_by_name(
    name: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = bytearray((model / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (model / name).write_bytes(bytes(raw))
    assert predict(model) == 3
    said = capsys.readouterr().err
    assert f"{model / name}: was changed since it was exported" in said
    assert not (model.parent / "out.csv").exists()


def test_a_file_that_was_not_exported_with_the_others_is_refused(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "adapters.safetensors").write_bytes(b"of another study")
    assert predict(model) == 3
    assert "adapters.safetensors: is not among the files" in capsys.readouterr().err
    (model / "adapters.safetensors").unlink()
    (model / "model-card.md").unlink()  # nobody needs it to predict, and it was not changed
    assert predict(model) == 0


def hashes_swapped(told: dict[str, Any]) -> None:
    told["export"]["document"]["files"]["study.json"] = "0" * 64


def signer_renamed(told: dict[str, Any]) -> None:
    told["release"]["document"]["signer"]["name"] = "Dr. A. Nother"


def of_another_release(told: dict[str, Any]) -> None:
    """All signed rightly by one key, but the list is of a release that is not there."""
    key = SigningKey.generate()
    told |= {"key": key.public.text, "fingerprint": key.public.fingerprint}
    sign(key, told["export"])
    sign(key, told["release"])


def list_removed(told: dict[str, Any]) -> None:
    del told["export"]


def no_key(told: dict[str, Any]) -> None:
    told["key"] = "AAAA"


def contexts_swapped(told: dict[str, Any]) -> None:
    told["release"], told["export"] = told["export"], told["release"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hashes_swapped, "release.json: export: is not as SHA256:"),
        (signer_renamed, "release.json: release: is not as SHA256:"),
        (of_another_release, "export: is of another release"),
        (list_removed, "release.json: not as the protocol says: export"),
        (no_key, "release.json: key: is no verify key"),
        (contexts_swapped, "release.json: release: is not as SHA256:"),
    ],
)
def test_a_list_that_was_tampered_with_is_refused(
    change: Callable[[dict[str, Any]], None],
    reason: str,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rewritten(model, change)
    assert predict(model) == 3
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1


def test_who_signs_all_of_it_anew_is_found_out_by_the_fingerprint(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fingerprint = json.loads((model / "release.json").read_text())["fingerprint"]
    assert predict(model, "--signed-by", fingerprint) == 0
    assert f"signed by {fingerprint}" in capsys.readouterr().out
    (model.parent / "out.csv").unlink()

    def anew(told: dict[str, Any]) -> None:
        key = SigningKey.generate()
        told |= {"key": key.public.text, "fingerprint": fingerprint}
        sign(key, told["release"])
        told["export"]["document"]["release"] = told["release"]["signature"]
        sign(key, told["export"])

    rewritten(model, anew)
    assert predict(model, "--signed-by", fingerprint) == 3
    assert f"not by {fingerprint}" in capsys.readouterr().err
    assert predict(model) == 0  # it is whole, and signed by whom it says
    (model.parent / "out.csv").unlink()
    (model / "release.json").unlink()
    assert predict(model, "--signed-by", fingerprint) == 3
    assert "nobody's signature is here" in capsys.readouterr().err
    assert predict(model) == 0
    assert "nobody's signature was checked" in capsys.readouterr().out


def test_the_page_says_rightly_how_to_verify_by_hand(model: Path) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    words = [sys.executable, "-c", text]
    ran = subprocess.run(words, cwd=model, capture_output=True, text=True, check=True)
    assert f"released by {OFFICER}" in ran.stdout
    assert json.loads((model / "release.json").read_text())["fingerprint"] in ran.stdout
    (model / "load_model.py").write_text("print('something else')\n")
    ran = subprocess.run(words, cwd=model, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "load_model.py was changed\n")

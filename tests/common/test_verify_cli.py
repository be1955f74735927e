"""`cohortium audit verify` and `verifier`: the same code as the file, and the file itself."""

import hashlib
import json
from pathlib import Path

import pytest
from tests.bundles import BUNDLE, POLICY, made, packed

from cohortium.common.audit import bundle, verify
from cohortium.common.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().out


@pytest.mark.parametrize(("cosigners", "code"), [(("north", "south"), 0), (("north",), 2)])
def test_a_bundle_is_verified_with_the_exit_codes_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cosigners: tuple[str, ...], code: int
) -> None:
    bundle.write(tmp_path / BUNDLE, packed(cosigners=cosigners))
    (tmp_path / POLICY).write_text(made().policy)
    call = ("audit", "verify", tmp_path / BUNDLE, "--policy", tmp_path / POLICY)
    assert run(capsys, *call)[0] == code
    found, out = run(capsys, *call, "--json")
    assert (found, json.loads(out)["exit_code"]) == (code, code)


def test_a_wrong_call_is_told_apart_from_too_few_witnesses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "audit", "verify", tmp_path / BUNDLE)[0] == 64
    assert run(capsys, "audit", "verify", tmp_path, "--polcy", "x")[0] == 64
    code, out = run(capsys, "audit", "verify", tmp_path, "--policy", tmp_path / "absent")
    assert (code, "NOTHING WAS CHECKED" in out) == (64, True)


def test_the_verifier_is_written_byte_for_byte_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "verify.py"
    code, text = run(capsys, "audit", "verifier", "--out", out, "--json")
    assert code == 0
    assert out.read_bytes() == Path(verify.__file__).read_bytes()
    assert json.loads(text)["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert run(capsys, "audit", "verifier", "--out", out)[0] == 2

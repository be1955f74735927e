"""Parameters that are each site's own: trained in the same steps, and in no message."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tests.any_study import federation_of, run
from tests.asking import Asker
from tests.federation import FULL, PLAIN, PRIVATE, Federation, InProcessSites, clock, write_ward
from tests.needles import images
from tests.server.test_adapters import travelled
from tests.server.test_transfer import MLP, made

from cohortium.client import local_round, staying
from cohortium.client.held import Held
from cohortium.client.own_file import write_own
from cohortium.client.site import open_site
from cohortium.client.training.full_batch import clipped_sum
from cohortium.client.training.private import train
from cohortium.common import arrays
from cohortium.common.envelope import unseal
from cohortium.common.errors import DocumentError, RefusedError, UnreachableError, UsageError
from cohortium.common.messages import Evaluate, Hold, Train
from cohortium.common.models.building import study_module
from cohortium.common.privacy.noise import NoiseSource
from cohortium.common.study import Study
from cohortium.common.using.described import load_described, load_module
from cohortium.server.release import examine, release
from cohortium.server.release_report import release_report
from cohortium.server.signed import Signatures, Signer
from cohortium.server.starting import check_patterns

OWN = '\n[transfer]\nown = ["2.*"]\n'
BODY, HEAD = 20, 6  # parameters: 3 x 5 + 5, and 5 + 1


def prepared(root: Path, training: str, transfer: str = OWN) -> tuple[Study, Federation]:
    study = made(root / "study", training, transfer, MLP)
    check_patterns(study)
    tables = {n: write_ward(root / f"{n}.csv", seed, 90) for seed, n in enumerate("abc")}
    return study, federation_of(root / "study", study, tables)


def heads(study: Study, federation: Federation) -> dict[str, np.ndarray]:
    return {n: Held(site.database).of(study.digest) for n, site in federation.sites.items()}


def bodies(federation: Federation) -> list[tuple[str, int, str, bytes]]:
    """Every message both ways: site, round, kind and body."""
    found = []
    for site, request, reply in federation.transport.wire:
        keys = (federation.key.public, federation.sites[site].key.public)
        for raw, key in zip((request, reply), keys, strict=True):
            header, body = unseal(raw, key)
            found.append((site, header.round, header.kind, bytes(body)))
    return found


@pytest.mark.parametrize("training", [PLAIN, PRIVATE, FULL])
def test_a_head_is_trained_and_stays(tmp_path: Path, training: str) -> None:
    study, federation = prepared(tmp_path, training)
    start = arrays.flatten(study_module(study))
    assert (len(start), arrays.travelling(study_module(study))) == (BODY + HEAD, BODY)
    model = run(study, federation)
    found = heads(study, federation)
    assert all((head != start[BODY:]).all() for head in found.values())
    assert not np.array_equal(found["a"], found["b"])
    assert np.array_equal(model[BODY:], start[BODY:])
    assert (model[:BODY] != start[:BODY]).any()
    went = travelled(federation)
    assert {kind for _, _, kind in went} >= {"hold", "train", "evaluate"}
    asked = [body for _, _, kind, body in bodies(federation) if kind in ("train", "evaluate")]
    answered = [body for _, _, kind, body in bodies(federation) if kind == "update"]
    assert len(asked) + len(answered) > 20
    for body in (*asked, *answered):
        (length,) = struct.unpack(">I", body[:4])
        assert len(body) == 4 + length + 4 * BODY
    left = b"".join(reply for _, _, reply in federation.transport.wire)
    for value in np.concatenate([*found.values(), *(h - start[BODY:] for h in found.values())]):
        assert not any(needle in left for needle in images(float(value)))
    federation.close()


def test_the_ledger_is_that_of_a_study_whose_model_travels_whole(tmp_path: Path) -> None:
    rows = []
    for folder, transfer in (("own", OWN), ("whole", "")):
        study, federation = prepared(tmp_path / folder, PRIVATE, transfer)
        run(study, federation)
        ledger = federation.sites["a"].ledger(study)
        rows.append([entry.mechanism for entry in ledger.entries()])
        federation.close()
    assert rows[0] == rows[1]
    assert len(rows[0]) == study.training.rounds


def test_a_head_is_clipped_and_noised_with_the_body(tmp_path: Path) -> None:
    """As if it travelled: the same clipped sums, and where nobody is drawn it moves by noise."""
    own = made(tmp_path / "own", PRIVATE, OWN, MLP)
    whole = made(tmp_path / "whole", PRIVATE, "", MLP)
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(30, 3)).astype(np.float32))
    labels = torch.from_numpy((rng.random(30) < 0.5).astype(np.float32))
    rows = features, labels
    sums = [clipped_sum(study_module(one), *rows, "binary", 0.1) for one in (own, whole)]
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-6)
    assert np.linalg.norm(sums[0][BODY:]) > 0.1

    module, plan = study_module(own), local_round.private_plan(own, 30)
    nobody = np.zeros((0, 3), np.float32), np.zeros(0, np.float32)
    start = arrays.flatten(module)
    update = train(module, start, *nobody, plan, NoiseSource(), torch.device("cpu"))
    assert (update.delta[BODY:] != 0).all()


def test_a_coordinator_that_holds_back_too_little_gets_no_head(tmp_path: Path) -> None:
    """It sends the head as if it travelled, so that its change would be in the update."""
    study, federation = prepared(tmp_path, PLAIN)
    start = arrays.flatten(study_module(study))
    asker = Asker(federation.key, federation.sites["a"])
    asker.invite(study)
    asker.ask(study, Hold(), 1, start[-1:])
    for question in (Train(), Evaluate()):
        heard = asker.ask(study, question, 1, start[:-1])
        assert heard.rule == "protocol"
        assert f"{BODY} of this study" in heard.message.explanation
    assert asker.ask(study, Train(), 1, start[:BODY]).rule
    federation.close()


class Off(InProcessSites):
    """A network that is gone at the n-th question."""

    def ask(self, heads, body, deadline_s):  # type: ignore[no-untyped-def]
        self.asked = getattr(self, "asked", 0) + 1
        if self.asked == 7:
            raise UnreachableError("the network is gone")
        yield from super().ask(heads, body, deadline_s)


def test_heads_outlive_a_coordinator_and_sites_that_are_started_again(tmp_path: Path) -> None:
    study, federation = prepared(tmp_path / "calm", PLAIN)
    calm = run(study, federation)
    expected = heads(study, federation)
    federation.close()

    study, federation = prepared(tmp_path / "rough", PLAIN)
    federation.transport = Off(federation.sites)
    with pytest.raises(UnreachableError):
        run(study, federation)
    done = [record.round for record in federation.store.rounds(study.digest)]
    assert done
    assert done[-1] < study.training.rounds
    for name, site in list(federation.sites.items()):
        root = site.directory.root
        site.database.close()
        federation.sites[name] = open_site(root)
    federation.transport = InProcessSites(federation.sites)
    model = run(study, federation)
    found = heads(study, federation)
    assert np.array_equal(model, calm)
    assert all(np.array_equal(found[name], expected[name]) for name in "abc")
    federation.close()


def test_a_site_is_measured_with_its_own_head_and_can_use_that_model(tmp_path: Path) -> None:
    study, federation = prepared(tmp_path, PLAIN)
    model = run(study, federation)
    a, found = federation.sites["a"], heads(study, federation)
    record = federation.store.rounds(study.digest)[-1]
    whole = np.concatenate([model[:BODY], found["a"]])
    other = np.concatenate([model[:BODY], found["b"]])
    measured = [a.workshop.evaluate(study, None, one, 2).leaves.overall for one in (whole, other)]
    assert record.evaluations["a"].overall == measured[0] != measured[1]

    out = tmp_path / "model"
    files = [path.name for path in write_own(study, a.directory.root, out)]
    assert files == ["model.safetensors", "study.json", "model.onnx", "load_model.py"]
    parameters = load_file(out / "model.safetensors")
    assert np.array_equal(parameters["2.weight"].ravel(), found["a"][:5])
    assert np.array_equal(parameters["0.bias"], model[15:20])
    module = load_module(out, load_described(out).study)
    assert np.array_equal(arrays.flatten(module), whole)
    with pytest.raises(UsageError, match="not overwritten"):
        write_own(study, a.directory.root, out)
    staying.forget(a, study.digest)
    with pytest.raises(UsageError, match="goes when the dataset is withdrawn"):
        write_own(study, a.directory.root, tmp_path / "again")
    federation.close()


def test_no_model_with_somebodys_head_is_released(tmp_path: Path) -> None:
    study, federation = prepared(tmp_path, PLAIN)
    run(study, federation)
    row = federation.store.study(study.name)
    dossier = examine(row, federation.store, federation.log)
    signatures = Signatures(federation.store.database, lambda: federation.key)
    who = Signer(name="Dr. E. Haddad", user="e", auth="local", role="")
    now = (federation.log, signatures, federation.actor, clock())
    with pytest.raises(RefusedError, match=r"each site's own.*cohortium site model ward-study"):
        release(dossier, "I want it", who, *now)
    found = release_report(row, federation.store, federation.log, signatures)
    assert found is not None
    assert found.state == "not released"
    assert "no whole model" in found.problem
    federation.close()


@pytest.mark.parametrize(
    ("transfer", "said"),
    [
        ('own = ["head.*"]', 'no parameter is called "head'),
        ('own = ["*"]', "nothing left to learn together"),
        ('own = ["2.*"]\nfreeze = ["2.bias"]', "2.bias is frozen"),
    ],
)
def test_patterns_that_give_no_site_anything_are_refused(
    tmp_path: Path, transfer: str, said: str
) -> None:
    study = made(tmp_path, PLAIN, f"\n[transfer]\n{transfer}\n", MLP)
    with pytest.raises(UsageError, match=said):
        check_patterns(study)


@pytest.mark.parametrize(
    "changed",
    [
        "[evaluation]\nleave_one_site_out = true\n",
        "[evaluation]\nown_model = true\n",
        "[strategy]\naverage_last = 0.5\n",
        "[strategy]\nweight_decay = 0.1\n",
    ],
)
def test_what_would_mix_models_is_refused(tmp_path: Path, changed: str) -> None:
    with pytest.raises(DocumentError, match="transfer"):
        made(tmp_path, PLAIN, changed + OWN, MLP)


def test_a_site_without_patients_to_train_on_has_no_head(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="only evaluates has no parameters"):
        made(tmp_path, PLAIN, OWN, MLP, 'evaluate_only = ["c"]\nnames = [')

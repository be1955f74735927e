"""A coordinator ships code and speaks as Flower's own apps do: at a site nothing of it runs."""

import io
import os
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import flwr
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import run_from_proto
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import PullTaskInputRequest
from flwr.superlink.grid import HttpGrid
from tests.e2e.deployment import Running, assert_nothing_runs, command
from tests.federation import COORDINATOR, FULL, SCHEMA, make_any_site, write_study, write_ward
from tests.transport import Federation, federation, free_port, wait_for

from cohortium.client.config import DatasetConfig, SiteDir
from cohortium.client.site import open_site
from cohortium.common.envelope import Header, seal, unseal
from cohortium.common.identity import SigningKey, certificate_fingerprint, make_node_key
from cohortium.common.messages import EMPTY, Invite, Refusal, Train, kind_of, pack, unpack
from cohortium.common.study import Study
from cohortium.server import flower_run
from cohortium.server import superlink as superlink_module
from cohortium.server.coordinator import initial_model
from cohortium.server.flower_sites import FlowerSites

MESSAGE_TYPE = "query.cohortium"
REPLY_S = 20.0
PYPROJECT = """[project]
name = "evil"
version = "1.0.0"
description = "a bundle that writes a file wherever any of it is imported"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "evil"
[tool.flwr.app.components]
serverapp = "evil.app:server"
clientapp = "evil.app:client"
"""
# Ours by name, and what Python itself would load: whoever unpacks the bundle first on the path
# gets these instead.
SHADOWS = (
    "evil/__init__.py",
    "evil/app.py",
    "cohortium/__init__.py",
    "cohortium/client/__init__.py",
    "cohortium/client/rounds.py",
    "cohortium/client/worker.py",
    "numpy.py",
    "sitecustomize.py",
)
CODE = """
from pathlib import Path
Path({proof!r}).write_text(__name__)
try:
    from flwr.clientapp import ClientApp
    client = ClientApp()
    @client.train()
    @client.evaluate()
    @client.query()
    def act(message, context):
        raise RuntimeError
except ImportError:
    pass
"""


@dataclass
class Attacked:
    """A real site daemon, and the whole of Flower's server side in hostile hands."""

    federation: Federation
    key: SigningKey
    directory: SiteDir
    daemon: Running
    sites: FlowerSites
    study: Study
    bundle: bytes
    proof: Path
    asked: list[bytes] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)

    def ask(self, question: Any, round: int = 0, vector: Any = EMPTY, **changes: Any) -> str:
        """What kind of message answers one that the coordinator has signed, or a refusal's rule."""
        header = Header(
            kind=kind_of(question),
            study=self.study.digest,
            round=round,
            message_id=os.urandom(16).hex(),
            sender=COORDINATOR,
            recipient="a",
            sent_ms=0,
        ).model_copy(update=changes)
        return self.deliver(seal(header, pack(question, vector), self.key))

    def deliver(self, request: bytes) -> str:
        """Send bytes through Flower; `heard` keeps what came back."""
        self.asked.append(request)
        ((_, reply),) = self.sites.ask({"a": request}, b"", REPLY_S)
        header, body = unseal(reply, SigningKey.load(self.directory.signing_key).public)
        self.heard.append(bytes(body))
        return unpack(body, Refusal)[0].rule if header.kind == "refusal" else header.kind

    def train(self, round: int, scale: float = 1.0, **changes: Any) -> str:
        model = initial_model(self.study) * np.float32(scale)
        return self.ask(Train(), round, model, **changes)

    def spent(self) -> list[int]:
        """The rounds that the site's ledger has paid for."""
        site = open_site(self.directory.root)
        try:
            return [entry.round for entry in site.ledger(self.study).entries()]
        finally:
            site.database.close()

    def push(self, message_type: str, content: RecordDict, site: str = "a") -> Message:
        """Send a message as a ServerApp of Flower's does, and wait for what comes back."""
        (reply,) = self.replies(message_type, content, site, lambda: False)
        return reply

    def replies(
        self, message_type: str, content: RecordDict, site: str, seen: Callable[[], bool]
    ) -> list[Message]:
        """Send a message and wait for a reply, or until something else is `seen`."""
        flower = self.federation.superlink
        token = flower_run._claim(flower, flower.start_run())
        grid = HttpGrid(runtime_api_address=flower.runtime_address, insecure=True, token=token)
        task = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        grid.set_run(run_from_proto(task.run))
        node = self.federation.node_ids[site]
        message = Message(content, dst_node_id=node, message_type=message_type, ttl=60.0)
        (sent,) = grid.push_messages([message])
        deadline = time.monotonic() + REPLY_S
        while not (replies := list(grid.pull_messages([sent]))) and not seen():
            assert time.monotonic() < deadline, f"{message_type}: no answer"
            time.sleep(0.1)
        grid.close()
        return replies

    def untouched(self) -> None:
        """Nothing of the bundle ran, no reply holds a result, and the daemon answers as before."""
        assert not self.proof.exists(), self.proof.read_text()
        assert self.daemon.process.poll() is None, self.daemon.stderr
        assert self.ask(Invite(study=self.study)) == "consent"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    root = tmp_path_factory.mktemp("attacked")
    proof = root / "it-ran"
    bundle = hostile_bundle(proof)
    with federation(root) as flower, pytest.MonkeyPatch.context() as patch:
        hostile = Fab(hash_str=sha256(bundle).hexdigest(), content=bundle)
        patch.setattr(superlink_module, "_empty_bundle", lambda: hostile)
        patch.setenv("FLWR_HOME", str(root / "flower-home"))
        key = SigningKey.generate()
        directory = furnish(root, flower, key)
        daemon = Running(root, "site", "up", "--dir", str(directory.root))
        sites = FlowerSites(flower.superlink, flower.node_ids)
        try:
            daemon.wait_state("online")
            study = write_study(root, FULL)
            yield Attacked(flower, key, directory, daemon, sites, study, bundle, proof)
        finally:
            sites.close(completed=False)
            daemon.end()
            daemon.kill_group()
            assert_nothing_runs(directory.root)


def hostile_bundle(proof: Path) -> bytes:
    files = {name: CODE.format(proof=str(proof)).encode() for name in SHADOWS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's use of pathspec
        bundle, _ = build_fab_from_files({"pyproject.toml": PYPROJECT.encode(), **files})
    return bundle


def furnish(root: Path, flower: Federation, key: SigningKey) -> SiteDir:
    """A site as `join` leaves it, with a ward's table."""
    home = root / "a"
    home.mkdir()
    (root / "schema.toml").write_text(SCHEMA)
    table = write_ward(root / "ward.csv", seed=1)
    data = DatasetConfig(
        path=table, schema_file=root / "schema.toml", epsilon_cap=10.0, delta_cap=1e-5
    )
    make_any_site(home, "a", key.public, {"ward": data}, {"purposes": '["HMB"]'}).database.close()
    directory = SiteDir(home)
    ca = flower.tls.ca.read_bytes()
    directory.ca.write_bytes(ca)
    flower.node_ids["a"] = flower.superlink.register_node(make_node_key(directory.node_key))
    text = directory.config.read_text()
    text = text.replace("127.0.0.1:1", f"127.0.0.1:{flower.port}")
    text = text.replace('ca_fingerprint = ""', f'ca_fingerprint = "{certificate_fingerprint(ca)}"')
    directory.config.write_text(text)
    return directory


def test_the_bundle_would_act_wherever_it_is_unpacked(attacked: Attacked, tmp_path: Path) -> None:
    """Else the other tests would show nothing."""
    zipfile.ZipFile(io.BytesIO(attacked.bundle)).extractall(tmp_path)
    program = "import cohortium.client.rounds"
    subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(tmp_path)}, check=True, timeout=60
    )
    assert attacked.proof.exists()
    attacked.proof.unlink()


def test_flowers_own_node_runs_what_ours_does_not(attacked: Attacked, tmp_path: Path) -> None:
    """The same bundle, the same message, and a node as Flower ships it."""
    flower = attacked.federation
    flower.enrol("stock")
    with stock_node(flower, tmp_path):
        wait_for(lambda: flower.superlink.nodes()[flower.node_ids["stock"]] == "online", 30)
        content = RecordDict({"config": ConfigRecord({"lr": 0.1})})
        attacked.replies("train.default", content, "stock", attacked.proof.exists)
    assert attacked.proof.exists()
    attacked.proof.unlink()


@contextmanager
def stock_node(flower: Federation, place: Path) -> Iterator[None]:
    bin_directory = Path(flwr.__file__).parents[4] / "bin"
    options = {
        "--superlink": f"127.0.0.1:{flower.port}",
        "--root-certificates": flower.tls.ca,
        "--auth-supernode-private-key": flower.folder / "stock.key",
        "--port": free_port(),
    }
    words = [str(word) for option in options.items() for word in option]
    with (place / "stock.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(bin_directory / "flower-supernode"), *words],
            env={
                **os.environ,
                "FLWR_HOME": str(place / "flwr"),
                "FLWR_TELEMETRY_ENABLED": "0",
                "FLWR_DISABLE_UPDATE_CHECK": "1",
                "PATH": f"{bin_directory}:{os.environ['PATH']}",
            },
            stdout=log,
            stderr=log,
            cwd=place,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_run_that_carries_a_bundle_starts_nothing_of_it(attacked: Attacked) -> None:
    attacked.untouched()
    home = attacked.directory.root.parent / "flower-home"
    assert not home.exists() or not list(home.rglob("*.py"))
    unpacked = [p for p in attacked.directory.root.rglob("*") if p.name in ("app.py", "rounds.py")]
    assert unpacked == []


@pytest.mark.parametrize(
    "message_type",
    ["train.default", "evaluate.default", "query.default", "train.act", "query.evil"],
)
def test_a_message_of_an_app_of_flowers_own_is_answered_by_nobody(
    attacked: Attacked, message_type: str
) -> None:
    arrays = ArrayRecord({"weights": Array(np.ones(4, dtype=np.float32))})
    config = ConfigRecord({"lr": 0.1, "code": "import os", "pickle": b"\x80\x04."})
    reply = attacked.push(message_type, RecordDict({"arrays": arrays, "config": config}))
    assert reply.has_error()
    assert "import os" not in str(reply.error.reason)
    attacked.untouched()


def test_records_beside_the_request_are_not_looked_at(attacked: Attacked) -> None:
    payload = ConfigRecord({"payload": b"no envelope", "more": "import os"})
    beside = ConfigRecord({"code": "import os; os._exit(1)"})
    reply = attacked.push(MESSAGE_TYPE, RecordDict({"payload": payload, "fab": beside}))
    assert reply.has_error() or b'"refusal"' in bytes(str(reply.content), "utf-8")
    attacked.untouched()


def test_a_signed_message_that_nobody_declared_is_refused_and_costs_nothing(
    attacked: Attacked,
) -> None:
    for kind in ("evil", "run", "fab", "train.default"):
        assert attacked.ask(Invite(study=attacked.study), kind=kind) == "protocol"
    assert attacked.train(1) == "study.waiting"
    attacked.untouched()
    assert attacked.spent() == []


def test_what_nobody_approved_is_refused_over_the_wire_however_it_differs(
    attacked: Attacked,
) -> None:
    """Last of all: from here on the study is approved."""
    study, rounds = attacked.study, attacked.study.training.rounds
    place = str(attacked.directory.root)
    done = command(
        attacked.proof.parent, "site", "approve", study.name, "--as", "A", "--dir", place
    )
    assert done.code == 0, done
    assert attacked.ask(Invite(study=study)) == "consent"
    assert attacked.train(1) == "update"
    first, update = attacked.asked[-1], attacked.heard[-1]
    assert attacked.deliver(first) == "update"
    assert attacked.heard[-1] == update
    assert attacked.train(1, scale=2.0) == "round.changed"
    assert attacked.train(rounds + 1) == "study.rounds"
    assert attacked.train(1, study="0" * 64) == "study.unknown"
    assert attacked.train(2, recipient="b") == "protocol"
    assert attacked.train(2, sender="mallory") == "protocol"
    longer = study.training.model_copy(update={"rounds": rounds + 1})
    changed = study.model_copy(update={"training": longer})
    assert attacked.ask(Invite(study=changed)) == "protocol"
    assert attacked.ask(Invite(study=changed), study=changed.digest) == "consent"
    assert b'"waiting"' in attacked.heard[-1]
    assert attacked.train(1, study=changed.digest) == "study.waiting"
    others = study.sites.model_copy(update={"names": ("b", "c")})
    elsewhere = study.model_copy(update={"sites": others})
    assert attacked.ask(Invite(study=elsewhere), study=elsewhere.digest) == "study.sites"
    assert attacked.spent() == [1]
    attacked.untouched()

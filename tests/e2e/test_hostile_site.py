"""An enrolled hospital answers in another's name, as Flower lets it: nobody must believe it."""

import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from safetensors.torch import load_file
from tests.e2e.deployment import Deployment, write_patient_study
from tests.federation import COORDINATOR, PLAIN

from cohortium.client.channel import open_channel
from cohortium.client.config import SiteDir
from cohortium.client.fleet_objects import PAYLOAD
from cohortium.common.envelope import Header, seal
from cohortium.common.identity import SigningKey, load_node_key, node_public_pem
from cohortium.common.messages import Update, pack

CHANGES = {"rounds = 4": "rounds = 3"}
SERVER = 1  # Flower's id of the coordinator


@pytest.mark.slow
def test_a_reply_in_another_sites_name_never_enters_the_model_nor_evicts_the_site(
    consortium: Deployment, tmp_path: Path
) -> None:
    """mallory, enrolled but in no study, answers in a's name whenever a is asked anything."""
    study = write_patient_study(tmp_path, PLAIN, name="spoofed", changes=CHANGES)
    consortium.submit(tmp_path / "study.toml")
    consortium.approve("spoofed", "a", "b")
    wait_for_approval(consortium, study.digest, "a")
    victim = consortium.daemons["a"].process
    with hostile_site(consortium) as mallory:
        before = mallory.waiting()
        approving = Thread(target=consortium.approve, args=("spoofed", "c"))
        approving.start()
        try:
            answer_until_it_is_noticed(consortium, mallory, study.digest, before, victim)
        finally:
            approving.join()
        watched = consortium.finish("spoofed")
    assert watched.code == 0, watched
    rounds = {line["round"]: sorted(line["replied"]) for line in watched.lines[:-1]}
    assert rounds == {number: ["a", "b", "c"] for number in (1, 2, 3)}
    raised = consortium.at_coordinator("study", "flags", "spoofed")["flags"]
    assert ("quarantine", "a") in {(flag["gate"], flag["site"]) for flag in raised}
    model = load_file(consortium.export("spoofed", tmp_path / "model"))
    assert max(float(tensor.abs().max()) for tensor in model.values()) < 100


def answer_until_it_is_noticed(
    consortium: Deployment,
    mallory: "Hostile",
    study: str,
    answered: set[str],
    victim: "subprocess.Popen[bytes]",
) -> None:
    """Answer whatever a is asked, of the study or as a witness, until the log says so.

    a is held still for it, but not for long: a site that is silent goes offline and is not asked.
    """
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        requests = mallory.waiting() - answered
        if not requests:
            time.sleep(0.02)
            continue
        victim.send_signal(signal.SIGSTOP)
        try:
            for request in requests:
                mallory.answer_for_the_victim(study, request)
            answered |= requests
            if noticed(consortium, study):
                return
        finally:
            victim.send_signal(signal.SIGCONT)
    raise AssertionError("the forged reply was not noticed")


def noticed(consortium: Deployment, study: str) -> bool:
    """Whether the coordinator's log says within some seconds that a's key did not sign."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for event in consortium.events(consortium.coordinator):
            if event["action"] == "auth.fail" and event.get("study") == study:
                assert event["detail"]["site"] == "a"
                return True
    return False


class Hostile:
    """mallory: an enrolled node key, and even a look into Flower's own database."""

    def __init__(self, consortium: Deployment, channel: grpc.Channel) -> None:
        directory = SiteDir(consortium.site("mallory"))
        key = load_node_key(directory.node_key)
        interceptor = NodeAuthClientInterceptor(key, key.public_key())
        self._stub = FleetStub(grpc.intercept_channel(channel, interceptor))
        self._version = RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()
        self._signing_key = SigningKey.load(directory.signing_key)
        self._database = consortium.coordinator / "superlink" / "superlink.db"
        victim = load_node_key(SiteDir(consortium.site("a")).node_key)
        query = "SELECT node_id FROM node WHERE public_key = ?"
        (row,) = self._read(query, node_public_pem(victim))
        self._victim = int(row["node_id"])
        self._node = Node(node_id=self._activate(node_public_pem(key)))

    def _activate(self, public_key: bytes) -> int:
        """The coordinator lets a node in a moment after it has joined."""
        request = ActivateNodeRequest(public_key=public_key, heartbeat_interval=30)
        deadline = time.monotonic() + 10
        while True:
            try:
                return int(self._call(self._stub.ActivateNode, request).node_id)
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def waiting(self) -> set[str]:
        """Ids of the requests to the victim so far."""
        rows = self._read("SELECT message_id FROM message_ins WHERE dst_node_id = ?", self._victim)
        return {str(row["message_id"]) for row in rows}

    def answer_for_the_victim(self, study: str, message_id: str) -> None:
        """Be quicker than the victim."""
        (request,) = self._read("SELECT * FROM message_ins WHERE message_id = ?", message_id)
        reply = self._forge(request, study)
        with no_object_id_recompute():
            announced = self._call(
                self._stub.PushMessages,
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[message_to_proto(remove_content_from_message(reply))],
                    message_object_trees=[get_object_tree(reply)],
                ),
            )
            objects = get_all_nested_objects(reply)
            for object_id in announced.objects_to_push:
                part = PushObjectRequest(
                    node=self._node,
                    run_id=reply.metadata.run_id,
                    object_id=object_id,
                    object_content=objects[object_id].deflate(),
                    session_id=announced.session_id,
                )
                self._call(self._stub.PushObject, part)  # not stored where the run has ended

    def _forge(self, request: sqlite3.Row, study: str) -> Message:
        """An update of a million, in the victim's name, under mallory's own signature."""
        header = Header(
            kind="update",
            study=study,
            round=1,
            message_id="0" * 32,
            sender="a",
            recipient=COORDINATOR,
            sent_ms=int(time.time() * 1000),
        )
        poison = np.full(4, 1e6, dtype=np.float32)
        payload = seal(header, pack(Update(weight=1.0, spent=None), poison), self._signing_key)
        now = time.time()
        metadata = Metadata(
            run_id=int(request["run_id"]) % 2**64,
            message_id="",
            src_node_id=self._victim % 2**64,
            dst_node_id=SERVER,
            reply_to_message_id=request["message_id"],
            group_id=request["group_id"],
            created_at=now,
            ttl=request["ttl"] - (now - request["created_at"]) - 1,
            message_type=request["message_type"],
        )
        content = RecordDict({PAYLOAD: ConfigRecord({PAYLOAD: payload})})
        reply = make_message(metadata=metadata, content=content)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        return reply

    def _read(self, query: str, value: object) -> list[sqlite3.Row]:
        database = sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)
        database.row_factory = sqlite3.Row
        try:
            return database.execute(query, (value,)).fetchall()
        finally:
            database.close()

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        return method(request, timeout=10, metadata=self._version)


@contextmanager
def hostile_site(consortium: Deployment) -> Iterator[Hostile]:
    """mallory joins as any hospital would."""
    consortium.join("mallory")
    directory = SiteDir(consortium.site("mallory"))
    address = directory.load_config().coordinator.fleet_address
    with open_channel(address, directory.ca.read_bytes()) as channel:
        yield Hostile(consortium, channel)


def wait_for_approval(consortium: Deployment, study: str, site: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        for event in consortium.events(consortium.coordinator):
            named = event["action"] == "study.approved" and event["study"] == study
            if named and event["detail"]["site"] == site:
                return
        assert time.monotonic() < deadline

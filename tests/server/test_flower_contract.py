"""What we use of Flower's inside, one test each: an upgrade that moves it fails here first.

A failure here means: read the new Flower source, adapt the one adapter that is named in the
message (tests/test_layout.py lists them), and only then lift the pin `flwr<1.37` in pyproject.toml.
"""

import inspect
from importlib import import_module, metadata

import pytest

ADVICE = "Flower moved this: adapt {adapter} to the new source before lifting the pin on flwr"

SYMBOLS = [
    ("superlink_process.py", "flwr.superlink.cli", "flower_superlink"),
    ("superlink_process.py", "flwr.proto.message_pb2", "ObjectTree"),
    ("superlink.py", "flwr.cli.build", "build_fab_from_files"),
    ("superlink.py", "flwr.proto.control_pb2_grpc", "ControlStub"),
    ("superlink.py", "flwr.proto.fab_pb2", "Fab"),
    *[
        ("superlink.py", "flwr.proto.control_pb2", f"{call}Request")
        for call in ("ListNodes", "RegisterNode", "StartRun", "StopRun", "UnregisterNode")
    ],
    *[
        ("flower_run.py", "flwr.proto.runtime_pb2", f"{call}Request")
        for call in (
            "ClaimTask",
            "PullPendingTasks",
            "PullTaskInput",
            "PushTaskOutput",
            "SendTaskHeartbeat",
        )
    ],
    ("flower_run.py", "flwr.supercore.runtime", "RuntimeHttpClient"),
    *[
        ("flower_run.py", "flwr.supercore.interceptors", f"{name}HttpInterceptor")
        for name in ("RuntimeToken", "RuntimeVersion", "SuperExecAuth")
    ],
    ("flower_run.py", "flwr.supercore.protobuf.client", "ProtobufClientInterceptor"),
    ("flower_sites.py", "flwr.proto.runtime_pb2", "PullAppMessagesRequest"),
    ("flower_sites.py", "flwr.proto.runtime_pb2", "PushAppMessagesRequest"),
    *[
        ("flower_sites.py", "flwr.proto.message_pb2", f"{call}Request")
        for call in ("ConfirmMessageReceived", "PullObject", "PushObject")
    ],
    ("flower_objects.py", "flwr.common.constant", "SUPERLINK_NODE_ID"),
    *[
        (adapter, module, name)
        for adapter in ("flower_objects.py", "fleet_objects.py")
        for module, name in (
            ("flwr.app.message", "remove_content_from_message"),
            ("flwr.common.serde", "message_to_proto"),
            ("flwr.supercore.inflatable.inflatable_object", "get_all_nested_objects"),
            ("flwr.supercore.inflatable.inflatable_object", "get_object_tree"),
            ("flwr.supercore.inflatable.inflatable_object", "no_object_id_recompute"),
        )
    ],
    ("fleet_objects.py", "flwr.common.serde", "message_from_proto"),
    *[
        ("fleet.py", "flwr.proto.fleet_pb2", f"{call}Request")
        for call in ("ActivateNode", "DeactivateNode", "PullMessages", "PushMessages")
    ],
    ("fleet_objects.py", "flwr.proto.fleet_pb2", "PullMessagesResponse"),
    ("fleet.py", "flwr.proto.heartbeat_pb2", "SendNodeHeartbeatRequest"),
    ("line.py", "flwr.proto.fleet_pb2_grpc", "FleetStub"),
]


@pytest.mark.parametrize(("adapter", "module", "name"), SYMBOLS)
def test_a_symbol_that_an_adapter_imports_did_not_move(
    adapter: str, module: str, name: str
) -> None:
    assert hasattr(import_module(module), name), ADVICE.format(adapter=adapter)


def test_flower_is_the_line_that_the_adapters_were_written_for() -> None:
    assert metadata.version("flwr").startswith("1.36."), (
        "the pin flwr>=1.36,<1.37 was lifted: go through the adapters and this file first"
    )


@pytest.mark.parametrize(
    ("adapter", "module", "name", "parameters"),
    [
        (
            "line.py",
            "flwr.client.grpc_rere_client.node_auth_client_interceptor",
            "NodeAuthClientInterceptor",
            ["private_key", "public_key"],
        ),
        ("node.py", "flwr.app.error", "Error", ["code", "reason"]),
        (
            "flower_run.py",
            "flwr.supercore.retry",
            "RetryInvoker",
            ["wait_gen_factory", "recoverable_exceptions", "max_tries", "max_time"],
        ),
        ("flower_run.py", "flwr.supercore.retry", "exponential", ["base_delay", "max_delay"]),
    ],
)
def test_a_call_still_takes_what_an_adapter_gives_it(
    adapter: str, module: str, name: str, parameters: list[str]
) -> None:
    taken = inspect.signature(getattr(import_module(module), name)).parameters
    assert set(parameters) <= set(taken), ADVICE.format(adapter=adapter)


def test_sqlite_still_takes_its_busy_timeout_from_the_list_that_we_change() -> None:
    from flwr.supercore import sql_mixin

    advice = ADVICE.format(adapter="superlink_process.py")
    assert dict(vars(sql_mixin)["SQLITE_PRAGMAS"])["busy_timeout"] == "5000", advice
    assert "SQLITE_PRAGMAS" in inspect.getsource(sql_mixin._set_sqlite_pragmas), advice


def test_an_upload_still_ends_after_the_time_that_we_change() -> None:
    from flwr.supercore.corestate import sql_corestate

    source = inspect.getsource(sql_corestate.SqlCoreState.store_object)
    advice = ADVICE.format(adapter="superlink_process.py")
    assert vars(sql_corestate)["OBJECT_PUSH_SESSION_TTL_SECONDS"] == 180, advice
    assert "seconds=OBJECT_PUSH_SESSION_TTL_SECONDS" in source, advice


def test_a_message_still_enters_the_store_where_we_count_its_objects() -> None:
    from flwr.supercore.object_store.sql_object_store import SqlObjectStore

    parameters = list(inspect.signature(SqlObjectStore.preregister).parameters)
    assert parameters == ["self", "run_id", "object_tree"], ADVICE.format(
        adapter="superlink_process.py"
    )


def test_a_payload_is_still_three_objects_however_large_it_is() -> None:
    """Each object costs a call and several SQL statements; ours besides are its chunks."""
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

    content = RecordDict({"payload": ConfigRecord({"payload": bytes(11_000_000)})})
    message = Message(content, dst_node_id=1, message_type="query.x")
    advice = ADVICE.format(adapter="flower_objects.py and fleet_objects.py")
    assert len(get_all_nested_objects(message)) == 3, advice
    (record,) = get_object_tree(message).children[0].children
    assert not record.children, advice


def test_a_chunk_is_still_an_object_as_we_write_it() -> None:
    from flwr.app.message.arraychunk import ArrayChunk
    from flwr.supercore.inflatable.inflatable_object import get_object_id
    from flwr.supercore.inflatable.inflatable_utils import validate_object_content

    from cohortium.common.parcel import CHUNK_BYTES, Chunks

    body = bytes(range(256)) * (CHUNK_BYTES // 256)
    (name,) = Chunks(body).ids
    content = Chunks(body).content(name)
    advice = ADVICE.format(adapter="common/parcel.py")
    assert content == ArrayChunk(memoryview(body)).deflate(), advice
    assert name == get_object_id(content), advice
    validate_object_content(content)


def test_an_announced_message_still_says_what_we_read_instead_of_its_object() -> None:
    from flwr.proto.message_pb2 import Message

    fields = Message.DESCRIPTOR.fields_by_name
    advice = ADVICE.format(adapter="flower_sites.py")
    assert {"metadata", "error"} <= set(fields), advice
    assert "reply_to_message_id" in fields["metadata"].message_type.fields_by_name, advice


def test_what_the_superlink_itself_says_of_a_lost_message_still_comes_from_the_superlink() -> None:
    """A site's own error ends its request; one of the SuperLink's only means: send it again."""
    from flwr.app import Metadata
    from flwr.common.constant import SUPERLINK_NODE_ID
    from flwr.server.superlink.linkstate import utils

    asked = Metadata(1, "id", SUPERLINK_NODE_ID, 7, "", "", 0.0, 60.0, "query.x")
    lost = utils.create_message_error_unavailable_res_message(asked, "node_unavail")
    advice = ADVICE.format(adapter="flower_sites.py")
    assert lost.metadata.src_node_id == SUPERLINK_NODE_ID, advice
    assert lost.metadata.reply_to_message_id == "id", advice


def test_a_node_still_says_when_it_went_online() -> None:
    from flwr.proto.node_pb2 import NodeInfo

    fields = NodeInfo.DESCRIPTOR.fields_by_name
    assert {"node_id", "status", "last_activated_at"} <= set(fields), ADVICE.format(
        adapter="superlink.py"
    )


def test_a_message_id_is_still_set_where_we_set_it() -> None:
    from flwr.app import ConfigRecord, Message, RecordDict

    content = RecordDict({"payload": ConfigRecord({"payload": b"x"})})
    message = Message(content, dst_node_id=1, message_type="query.x")
    message.metadata.__dict__["_message_id"] = "a"
    assert message.metadata.message_id == "a", ADVICE.format(adapter="fleet.py")


def test_the_runtime_calls_that_need_the_shared_secret_are_still_listed() -> None:
    from flwr.supercore.interceptors.superexec_auth_interceptor import RUNTIME_SUPEREXEC_METHODS

    assert {method.rpartition("/")[2] for method in RUNTIME_SUPEREXEC_METHODS} >= {
        "PullPendingTasks",
        "ClaimTask",
    }, ADVICE.format(adapter="flower_run.py")


def test_the_superlink_still_knows_every_option_that_we_start_it_with() -> None:
    from flwr.superlink.cli import flower_superlink as module

    parser = import_module(module.__module__)._parse_args_run_superlink()
    known = set(parser._option_string_actions)
    assert known >= {
        "--ssl-ca-certfile",
        "--ssl-certfile",
        "--ssl-keyfile",
        "--fleet-api-address",
        "--control-api-address",
        "--host",
        "--port",
        "--database",
        "--isolation",
        "--superexec-auth-secret-file",
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    }, ADVICE.format(adapter="superlink.py")


def test_the_version_of_a_node_is_still_sent_as_metadata() -> None:
    from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata

    metadata = RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()
    assert all(isinstance(word, str) for pair in metadata for word in pair), ADVICE.format(
        adapter="line.py"
    )


def test_the_words_and_numbers_that_both_ends_rely_on_are_the_same() -> None:
    from flwr.common.constant import HEARTBEAT_MIN_INTERVAL, HEARTBEAT_PATIENCE, ErrorCode

    from cohortium.client import fleet_objects
    from cohortium.common import timeouts
    from cohortium.server import flower_objects

    assert fleet_objects.PAYLOAD == flower_objects.PAYLOAD
    assert timeouts.HEARTBEAT_S >= HEARTBEAT_MIN_INTERVAL, ADVICE.format(adapter="fleet.py")
    assert timeouts.ACTIVATION_S > HEARTBEAT_PATIENCE * timeouts.HEARTBEAT_S
    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION == 2

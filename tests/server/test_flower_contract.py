"""What we use of Flower's inside, one test each: an upgrade that moves it fails here first.

A failure here means: read the new Flower source, adapt the one adapter that is named in the
message (superlink_process.py, superlink.py, flower_sites.py or node.py), and only then lift the
pin `flwr<1.37` in pyproject.toml.
"""

import inspect
from importlib import import_module, metadata

import pytest

ADVICE = "Flower moved this: adapt {adapter} to the new source before lifting the pin on flwr"

SYMBOLS = [
    ("superlink_process.py", "flwr.superlink.cli", "flower_superlink"),
    ("superlink.py", "flwr.cli.build", "build_fab_from_files"),
    ("superlink.py", "flwr.proto.control_pb2_grpc", "ControlStub"),
    ("superlink.py", "flwr.proto.fab_pb2", "Fab"),
    *[
        ("superlink.py", "flwr.proto.control_pb2", f"{call}Request")
        for call in ("ListNodes", "RegisterNode", "StartRun", "StopRun", "UnregisterNode")
    ],
    *[
        ("flower_sites.py", "flwr.proto.runtime_pb2", f"{call}Request")
        for call in (
            "ClaimTask",
            "PullAppMessages",
            "PullPendingTasks",
            "PullTaskInput",
            "PushTaskOutput",
            "SendTaskHeartbeat",
        )
    ],
    ("flower_sites.py", "flwr.common.serde", "run_from_proto"),
    ("flower_sites.py", "flwr.proto.message_pb2", "ConfirmMessageReceivedRequest"),
    ("flower_sites.py", "flwr.supercore.inflatable.inflatable_object", "iterate_object_tree"),
    ("flower_sites.py", "flwr.supercore.inflatable.inflatable_utils", "ObjectUnavailableError"),
    ("flower_sites.py", "flwr.supercore.runtime", "RuntimeHttpClient"),
    ("flower_sites.py", "flwr.supercore.interceptors", "RuntimeVersionHttpInterceptor"),
    ("flower_sites.py", "flwr.supercore.interceptors", "SuperExecAuthHttpInterceptor"),
    ("node.py", "flwr.app.message", "remove_content_from_message"),
    ("node.py", "flwr.common.serde", "message_to_proto"),
    ("node.py", "flwr.proto.fleet_pb2_grpc", "FleetStub"),
    *[
        ("node.py", "flwr.proto.fleet_pb2", f"{call}Request")
        for call in ("ActivateNode", "DeactivateNode", "PullMessages", "PushMessages")
    ],
    ("node.py", "flwr.proto.heartbeat_pb2", "SendNodeHeartbeatRequest"),
    ("node.py", "flwr.supercore.inflatable.inflatable_object", "get_all_nested_objects"),
    ("node.py", "flwr.supercore.inflatable.inflatable_object", "get_object_tree"),
    ("node.py", "flwr.supercore.inflatable.inflatable_object", "no_object_id_recompute"),
]


@pytest.mark.parametrize(("adapter", "module", "name"), SYMBOLS)
def test_a_symbol_that_an_adapter_imports_did_not_move(
    adapter: str, module: str, name: str
) -> None:
    assert hasattr(import_module(module), name), ADVICE.format(adapter=adapter)


def test_flower_is_the_line_that_the_adapters_were_written_for() -> None:
    assert metadata.version("flwr").startswith("1.36."), (
        "the pin flwr>=1.36,<1.37 was lifted: go through the four adapters and this file first"
    )


@pytest.mark.parametrize(
    ("adapter", "module", "name", "parameters"),
    [
        (
            "node.py",
            "flwr.client.grpc_rere_client.node_auth_client_interceptor",
            "NodeAuthClientInterceptor",
            ["private_key", "public_key"],
        ),
        (
            "node.py",
            "flwr.supercore.inflatable.inflatable_utils",
            "pull_and_inflate_object_from_tree",
            ["object_tree", "pull_object_fn", "confirm_object_received_fn", "return_type"],
        ),
        (
            "node.py",
            "flwr.supercore.inflatable.inflatable_utils",
            "push_objects",
            ["objects", "push_object_fn", "object_ids_to_push"],
        ),
        (
            "flower_sites.py",
            "flwr.supercore.inflatable.inflatable_utils",
            "inflate_object_from_contents",
            ["object_id", "object_contents"],
        ),
        (
            "node.py",
            "flwr.supercore.inflatable.inflatable_protobuf_utils",
            "make_pull_object_fn_protobuf",
            ["pull_object_protobuf", "node", "run_id"],
        ),
        (
            "node.py",
            "flwr.supercore.inflatable.inflatable_protobuf_utils",
            "make_push_object_fn_protobuf",
            ["push_object_protobuf", "node", "run_id", "session_id"],
        ),
        (
            "node.py",
            "flwr.supercore.inflatable.inflatable_protobuf_utils",
            "make_confirm_message_received_fn_protobuf",
            ["confirm_message_received_protobuf", "node", "run_id"],
        ),
        ("node.py", "flwr.app.error", "Error", ["code", "reason"]),
        (
            "flower_sites.py",
            "flwr.superlink.grid",
            "HttpGrid",
            ["runtime_api_address", "insecure", "token"],
        ),
        (
            "flower_sites.py",
            "flwr.supercore.retry",
            "RetryInvoker",
            ["wait_gen_factory", "recoverable_exceptions", "max_tries", "max_time"],
        ),
        ("flower_sites.py", "flwr.supercore.retry", "exponential", ["base_delay", "max_delay"]),
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


def test_the_grid_still_uses_the_retry_that_we_put_into_it() -> None:
    """Flower's own raises SIGINT in the process that uses it once a run is stopped."""
    from flwr.superlink.grid import HttpGrid

    source = inspect.getsource(HttpGrid)
    advice = ADVICE.format(adapter="flower_sites.py")
    assert "self._retry_invoker" in source, advice
    assert "retry_invoker=self._retry_invoker" in source, advice
    assert "def _runtime_client(self)" in source, advice


def test_a_payload_is_still_three_objects_however_large_it_is() -> None:
    """Each object costs a call and several SQL statements; an array would be one per 5 MB."""
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    content = RecordDict({"payload": ConfigRecord({"payload": bytes(11_000_000)})})
    objects = get_all_nested_objects(Message(content, dst_node_id=1, message_type="query.x"))
    assert len(objects) == 3, ADVICE.format(adapter="flower_sites.py and node.py")


def test_a_message_id_is_still_set_where_we_set_it() -> None:
    from flwr.app import ConfigRecord, Message, RecordDict

    content = RecordDict({"payload": ConfigRecord({"payload": b"x"})})
    message = Message(content, dst_node_id=1, message_type="query.x")
    message.metadata.__dict__["_message_id"] = "a"
    assert message.metadata.message_id == "a", ADVICE.format(adapter="node.py")


def test_the_runtime_calls_that_need_the_shared_secret_are_still_listed() -> None:
    from flwr.supercore.interceptors.superexec_auth_interceptor import RUNTIME_SUPEREXEC_METHODS

    assert {method.rpartition("/")[2] for method in RUNTIME_SUPEREXEC_METHODS} >= {
        "PullPendingTasks",
        "ClaimTask",
    }, ADVICE.format(adapter="flower_sites.py")


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
        adapter="node.py"
    )


def test_the_words_and_numbers_that_both_ends_rely_on_are_the_same() -> None:
    from flwr.common.constant import HEARTBEAT_MIN_INTERVAL, HEARTBEAT_PATIENCE, ErrorCode

    from cohortium.client import node
    from cohortium.server import flower_sites

    assert node.PAYLOAD == flower_sites.PAYLOAD
    assert node.HEARTBEAT_S >= HEARTBEAT_MIN_INTERVAL, ADVICE.format(adapter="node.py")
    assert node.ACTIVATION_PATIENCE_S > HEARTBEAT_PATIENCE * node.HEARTBEAT_S
    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION == 2

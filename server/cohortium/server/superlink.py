"""Flower's SuperLink as a child process, and its Control API.

Only the Fleet port leaves this machine. The Control API has no authentication and the Runtime
API serves it too, so both are bound to 127.0.0.1 on ports picked free.
"""

import contextlib
import errno
import functools
import hashlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from flwr.cli.build import build_fab_from_files
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.control_pb2_grpc import ControlStub
from flwr.proto.fab_pb2 import Fab

from cohortium.common import timeouts
from cohortium.common.errors import IdentityError, UnreachableError
from cohortium.common.identity import check_certificate, read_private, write_private

LOOPBACK = "127.0.0.1"
_CAUSE = re.compile(r"^[\w.]*(Error|Exception)\b|^\s*ERROR|already in use")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

# What Flower wants to see before it starts a run. It holds no code, and nobody unpacks it.
EMPTY_BUNDLE = b"""[project]
name = "cohortium-study"
version = "1.0.0"
description = "no code: every site runs what it installed itself"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "cohortium"
[tool.flwr.app.components]
serverapp = "none:none"
clientapp = "none:none"
"""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of the coordinator: its CA, its server certificate, the certificate's key."""

    ca: Path
    certificate: Path
    key: Path


class SuperLink:
    """One SuperLink process and its Control API.

    Args:
        state_dir: holds the database, Flower's own home and the secret of the Runtime API.
        fleet_host, fleet_port: where nodes connect; the only address that leaves this machine.
        log: Flower's own output goes there and nowhere else.
    """

    def __init__(
        self, state_dir: Path, tls: TlsFiles, fleet_host: str, fleet_port: int, log: Path
    ) -> None:
        self._state_dir = state_dir
        self._tls = tls
        self._fleet_host = fleet_host
        self._fleet_port = fleet_port
        self._log = log
        self._control_port = 0
        self._runtime_port = 0
        self._log_start = 0  # where in the log file this process began to write
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None

    @property
    def runtime_address(self) -> str:
        """Where a claimed run talks to this SuperLink; kept over a restart while it is free."""
        return f"{LOOPBACK}:{self._runtime_port}"

    @property
    def runtime_secret(self) -> bytes:
        """What claims a run: shared by the SuperLink and this process alone."""
        return read_private(self._secret_file)

    def start(self) -> None:
        """Start the process and return once all three ports serve.

        Raises:
            IdentityError: the server certificate is not valid today.
            UnreachableError: a port is in use, or the process ended or did not get ready.
        """
        for path in (self._tls.ca, self._tls.certificate):
            check_certificate(_read(path), datetime.now(UTC))
        _check_free(self._fleet_host, self._fleet_port)
        self._pick_ports()
        self._prepare_state()
        self._process = self._spawn()
        try:
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process and everything that it started; idempotent."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is None:
            return
        process, self._process = self._process, None
        _signal_group(process, signal.SIGTERM)
        try:
            process.wait(timeouts.SUPERLINK_STOP_S)
        except subprocess.TimeoutExpired:
            pass
        _signal_group(process, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def alive(self) -> bool:
        """Whether the process runs; a killed one says no at once."""
        return self._process is not None and self._process.poll() is None

    def register_node(self, public_key_pem: bytes) -> int:
        """Let the owner of a node key in; returns the node id.

        Raises:
            IdentityError: the key is registered already.
            UnreachableError: the SuperLink does not answer.
        """
        try:
            with self._control() as control:
                request = RegisterNodeRequest(public_key=public_key_pem)
                return int(control.RegisterNode(request, timeout=timeouts.SUPERLINK_CALL_S).node_id)
        except grpc.RpcError as error:
            if error.code() in (
                grpc.StatusCode.FAILED_PRECONDITION,
                grpc.StatusCode.ALREADY_EXISTS,
            ):
                raise IdentityError(
                    "this node key is registered already or is no EC P-384 key; "
                    "the site must join with a new key"
                ) from None
            raise self._unreachable(error) from None

    def unregister_node(self, node_id: int) -> None:
        """Shut a node out for good; its key cannot be registered again."""
        self._call("UnregisterNode", UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> dict[int, str]:
        """Each known node's state: registered (never seen), online, offline, unregistered."""
        return {node_id: state for node_id, (state, _) in self.activations().items()}

    def activations(self) -> dict[int, tuple[str, str]]:
        """Each known node's state, and when it last went online (ISO 8601; "" for never)."""
        reply = self._call("ListNodes", ListNodesRequest())
        return {
            int(node.node_id): (str(node.status), str(node.last_activated_at))
            for node in reply.nodes_info
        }

    def start_run(self) -> int:
        """Open a run, the bracket around one study's messages; returns its id."""
        return int(self._call("StartRun", StartRunRequest(fab=_empty_bundle())).run_id)

    def stop_run(self, run_id: int) -> None:
        """End a run: its messages are no longer delivered, whoever asked gets an error."""
        self._call("StopRun", StopRunRequest(run_id=run_id))

    def _call(self, method: str, request: Any) -> Any:
        try:
            with self._control() as control:
                return getattr(control, method)(request, timeout=timeouts.SUPERLINK_CALL_S)
        except grpc.RpcError as error:
            raise self._unreachable(error) from None

    @contextlib.contextmanager
    def _control(self) -> Iterator[ControlStub]:
        if not self.alive():
            raise UnreachableError(f"the SuperLink is not running; see {self._log}")
        if self._channel is None:
            credentials = grpc.ssl_channel_credentials(_read(self._tls.ca))
            self._channel = grpc.secure_channel(f"{LOOPBACK}:{self._control_port}", credentials)
        yield ControlStub(self._channel)

    def _unreachable(self, error: grpc.RpcError) -> UnreachableError:
        return UnreachableError(
            f"the SuperLink did not do it ({error.code().name}: {_one_line(error.details())}); "
            f"see {self._log}"
        )

    @property
    def _secret_file(self) -> Path:
        return self._state_dir / "runtime.secret"

    def _pick_ports(self) -> None:
        for name in ("_control_port", "_runtime_port"):
            if not _is_free(LOOPBACK, getattr(self, name)):
                setattr(self, name, _free_port())

    def _prepare_state(self) -> None:
        try:
            self._state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._log.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnreachableError(
                f"{self._state_dir}: cannot be made ({error.strerror}); "
                "give the coordinator a directory that it may write"
            ) from None
        if not self._secret_file.exists():
            write_private(self._secret_file, secrets.token_hex(32).encode())

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            return subprocess.Popen(
                self._command(),
                env=self._environment(),
                stdin=subprocess.PIPE,  # its end of file tells the child that we are gone
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _command(self) -> list[str]:
        fleet = f"[{self._fleet_host}]" if ":" in self._fleet_host else self._fleet_host
        options = {
            "--ssl-ca-certfile": self._tls.ca,
            "--ssl-certfile": self._tls.certificate,
            "--ssl-keyfile": self._tls.key,
            "--fleet-api-address": f"{fleet}:{self._fleet_port}",
            "--control-api-address": f"{LOOPBACK}:{self._control_port}",
            "--host": LOOPBACK,
            "--port": self._runtime_port,
            "--database": self._state_dir / "superlink.db",
            "--isolation": "process",
            "--superexec-auth-secret-file": self._secret_file,
        }
        return [
            sys.executable,
            "-m",
            "cohortium.server.superlink_process",
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
            *(str(word) for pair in options.items() for word in pair),
        ]

    def _environment(self) -> dict[str, str]:
        programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        return os.environ | {
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_HOME": str(self._state_dir / "flwr"),
            "FLWR_LOG_LEVEL": "WARNING",
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": programs,
        }

    def _wait_until_healthy(self) -> None:
        """The Runtime port opens last; then the Control API must answer over TLS."""
        deadline = time.monotonic() + timeouts.SUPERLINK_START_S
        while time.monotonic() < deadline:
            if not self.alive():
                raise UnreachableError(f"the SuperLink ended at once: {self._last_words()}")
            if _answers(LOOPBACK, self._runtime_port):
                self.nodes()
                return
            time.sleep(0.05)
        raise UnreachableError(
            f"the SuperLink was not ready in {timeouts.SUPERLINK_START_S:.0f} s: "
            f"{self._last_words()}"
        )

    def _last_words(self) -> str:
        written = self._log.read_bytes()[self._log_start :].decode(errors="replace")
        lines = _COLOURS.sub("", written).splitlines()
        said = [line for line in lines if line.strip()] or ["it said nothing"]
        causes = [line for line in said if _CAUSE.search(line)]
        return f"{_one_line((causes or said)[-1])} ({self._log})"


@functools.cache
def _empty_bundle() -> Fab:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's use of pathspec
        content, _ = build_fab_from_files({"pyproject.toml": EMPTY_BUNDLE})
    return Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IdentityError(f"{path}: cannot be read ({error.strerror})") from None


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())[:200]


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def _check_free(host: str, port: int) -> None:
    """Raise UnreachableError where `host:port` cannot be bound, saying what to change."""
    try:
        _bind(host, port)
    except socket.gaierror:
        raise UnreachableError(
            f"{host}: no such host; set the fleet host to an address of this machine"
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UnreachableError(
                f"port {port} on {host} is in use by another program; "
                "stop it or set another fleet port"
            ) from None
        raise UnreachableError(
            f"{host}:{port} cannot be opened ({error.strerror}); "
            "set the fleet host and port to ones of this machine"
        ) from None


def _is_free(host: str, port: int) -> bool:
    if port == 0:
        return False
    try:
        _bind(host, port)
    except OSError:
        return False
    return True


def _bind(host: str, port: int) -> int:
    """Bind and let go; returns the port that it was."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        return int(probe.getsockname()[1])


def _free_port() -> int:
    return _bind(LOOPBACK, 0)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True

"""One connection to Flower's Fleet API, every call signed by this site's node key."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata

from cohortium.client.channel import open_channel
from cohortium.common.identity import load_node_key, node_public_pem

SILENT_CALLS = 2  # a connection on which so many calls in a row time out is replaced


@dataclass(frozen=True)
class FleetConnection:
    """Where the coordinator's Fleet API is, whom to trust there, and who we are.

    Attributes:
        address: `host:port`.
        ca_certificate: PEM of the only CA that the server's certificate may come from.
        node_key: file of the EC P-384 key that was registered at enrolment.
        name: the site's own name, for log lines.
        upload_mbit_s, download_mbit_s: most that large messages take of the link, in 10^6 bits
            a second; None for what it gives.
    """

    address: str
    ca_certificate: bytes
    node_key: Path
    name: str
    upload_mbit_s: float | None = None
    download_mbit_s: float | None = None


class ClosedError(Exception):
    """The connection was closed while it was in use."""


class Line:
    """Opened at once; nothing is sent before the first call."""

    def __init__(self, connection: FleetConnection) -> None:
        self._connection = connection
        self._key = load_node_key(connection.node_key)
        self._version = RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()
        self._channels: list[grpc.Channel] = []
        self._silent = 0
        self._closed = False
        self._open()

    @property
    def public_key(self) -> bytes:
        """PEM of the node key's public half."""
        return node_public_pem(self._key)

    def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """One call, tried once; a connection that stays silent is replaced for the next.

        Raises:
            grpc.RpcError: it failed.
            ClosedError: because `close` was called.
        """
        if self._closed:
            raise ClosedError
        try:
            reply = getattr(self._stub, method)(request, timeout=timeout_s, metadata=self._version)
        except (grpc.RpcError, ValueError) as error:
            if self._closed or isinstance(error, ValueError):  # grpc's, for a closed channel
                raise ClosedError from None
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                self._silent += 1
                if self._silent >= SILENT_CALLS:
                    self._open()
            raise
        self._silent = 0
        return reply

    def close(self) -> None:
        """Let go of the connection; calls that are under way fail; from any thread."""
        self._closed = True
        for channel in self._channels:
            channel.close()

    def _open(self) -> None:
        """The connection before this one may still be in use by another thread."""
        while len(self._channels) > 1:
            self._channels.pop(0).close()
        channel = open_channel(self._connection.address, self._connection.ca_certificate)
        self._channels.append(channel)
        signer = NodeAuthClientInterceptor(self._key, self._key.public_key())
        self._stub = FleetStub(grpc.intercept_channel(channel, signer))
        self._silent = 0

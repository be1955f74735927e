"""A gRPC channel to the coordinator that trusts one CA and nothing else."""

import os

import grpc

from cohortium.common.errors import IdentityError, UnreachableError

MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC's own ceiling; Flower splits nothing smaller for us
OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


def open_channel(address: str, ca_certificate: bytes) -> grpc.Channel:
    """Open a TLS channel to `host:port`; nothing is sent before the first call.

    gRPC's C core would write failed handshakes to standard error; what they mean is in the
    error that a call raises, and `explain` puts it into words.
    """
    if os.environ.get("GRPC_VERBOSITY", "error").lower() == "error":  # Flower's default
        os.environ["GRPC_VERBOSITY"] = "NONE"
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca_certificate), OPTIONS)


def explain(error: grpc.RpcError, address: str) -> IdentityError | UnreachableError:
    """What a failed call means: a server that is not the coordinator, or no answer."""
    details = " ".join((error.details() or "").split())
    if "certificate has expired" in details:
        return IdentityError(
            f"{address}: the coordinator's certificate has expired; the coordinator must renew it"
        )
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return IdentityError(
            f"{address}: the server's certificate is not from the coordinator's CA; "
            "do not go on, and compare the CA fingerprint with the coordinator by telephone"
        )
    if "is not in peer certificate" in details:
        return IdentityError(
            f"{address}: the coordinator's certificate is for another host name; "
            "the coordinator must add this one to its certificate"
        )
    return UnreachableError(
        f"{address}: no answer over TLS ({error.code().name.lower()}); "
        "check the address and the firewall, or ask the coordinator whether it is up"
    )

"""A gRPC channel to the coordinator that trusts one CA and nothing else."""

import grpc

from cohortium.common.errors import IdentityError, UnreachableError

MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC's own ceiling; a payload is one object
OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.use_local_subchannel_pool", 1),  # each channel is a connection of its own
)


def open_channel(address: str, ca_certificate: bytes) -> grpc.Channel:
    """Open a TLS channel to `host:port`; nothing is sent before the first call.

    gRPC's C core writes failed handshakes to standard error unless GRPC_VERBOSITY was NONE when
    grpc was first imported; the command line sets it. `explain` says what they mean.
    """
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

"""Joining a consortium: the site's one message to the coordinator's enrolment service."""

from datetime import UTC, datetime

import grpc

from cohortium.client.channel import explain, open_channel
from cohortium.common.errors import IdentityError, UnreachableError
from cohortium.common.identity import VerifyKey, check_node_public_key
from cohortium.common.invitation import (
    Invitation,
    JoinReply,
    JoinRequest,
    decode_reply,
    encode,
)

METHOD = "/cohortium.Enrolment/Join"


def enrol(
    invitation: Invitation, node_public_key: bytes, signing_public_key: VerifyKey, timeout_s: float
) -> JoinReply:
    """Use the invitation up and register this site's two public keys.

    Trusts the invitation's CA and no other, and that only if it has the invitation's fingerprint.

    Args:
        node_public_key: PEM of the EC P-384 key that Flower will know the site by.
        signing_public_key: what the coordinator will check this site's replies with.

    Raises:
        IdentityError: the invitation is wrong, used or expired, or the server is not the
            coordinator.
        UnreachableError: no answer in `timeout_s`.
        ProtocolError: the coordinator's answer makes no sense.
    """
    invitation.check(datetime.now(UTC))
    check_node_public_key(node_public_key)
    request = JoinRequest(
        token=invitation.token,
        site=invitation.site,
        node_key=node_public_key.decode(),
        signing_key=signing_public_key.text,
    )
    address = invitation.enrolment_address
    with open_channel(address, invitation.ca_certificate.encode()) as channel:
        try:
            body = channel.unary_unary(METHOD)(encode(request), timeout=timeout_s)
        except grpc.RpcError as error:
            raise _refusal(error, invitation) from None
    reply = decode_reply(body)
    VerifyKey.from_text(reply.coordinator_signing_key)
    return reply


def _refusal(error: grpc.RpcError, invitation: Invitation) -> IdentityError | UnreachableError:
    if error.code() == grpc.StatusCode.PERMISSION_DENIED:
        return IdentityError(
            f"{invitation.coordinator} refused {invitation.site}: the invitation is not valid, "
            "was used or has expired; ask the coordinator for a new one"
        )
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return UnreachableError(
            f"{invitation.coordinator} lets nobody try so often; wait a minute, then join again"
        )
    return explain(error, invitation.enrolment_address)

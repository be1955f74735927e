"""Electronic signatures under an export: who, when, in which role and with which meaning.

The signature is over a context line, which no other document of ours begins with, and everything
else that the block says as canonical JSON: name, time and meaning cannot be lifted off it
(21 CFR 11.50, 11.70).
"""

from cohortium.common.audit.events import Actor
from cohortium.common.audit.evidence import ESignature
from cohortium.common.document import canonical, parse
from cohortium.common.errors import SignatureError
from cohortium.common.identity import SigningKey, VerifyKey

CONTEXT = b"cohortium-export-v1\n"
MEANING = "export of this evidence, complete as far as its audience may see it"


def sign(
    manifest_sha256: str, name: str, actor: Actor, role: str, at: str, key: SigningKey
) -> ESignature:
    """Sign an export's manifest, given by its SHA-256 in hex, in a person's name.

    Raises:
        DocumentError: the name is empty or not one line.
    """
    values = {
        "name": name,
        "user": actor.id,
        "auth": actor.auth,
        "role": role,
        "meaning": MEANING,
        "at": at,
        "signed": manifest_sha256,
        "key": key.public.text,
        "signature": "",
    }
    unsigned = parse(values, ESignature, "--as")
    raw = key.sign(signed_bytes(unsigned))
    return unsigned.model_copy(update={"signature": raw.hex()})


def verify(esignature: ESignature, key: VerifyKey) -> None:
    """Raise SignatureError unless this key signed exactly this block."""
    try:
        raw = bytes.fromhex(esignature.signature)
    except ValueError:
        raise SignatureError("the e-signature is no hex") from None
    if esignature.key != key.text:
        raise SignatureError("the e-signature is by another key")
    key.verify(raw, signed_bytes(esignature))


def signed_bytes(esignature: ESignature) -> bytes:
    """The context line, then the block as canonical JSON with an empty `signature`."""
    return CONTEXT + canonical(esignature.model_copy(update={"signature": ""}))

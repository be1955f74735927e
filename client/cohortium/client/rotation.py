"""New keys for a site: the old ones are sealed aside, and what they signed still verifies.

keys/next/ -> keys/retired/NAME/ and keys/: each key moves by itself, and keys/next/ stays until the
change is recorded, so that a power cut in between leaves something to go on with. Until the site
has joined again, `keys/unenrolled` says that nobody knows the new keys.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cohortium.client.config import SiteDir, write_whole
from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.errors import CohortiumError, IdentityError
from cohortium.common.identity import (
    SigningKey,
    VerifyKey,
    load_node_key,
    make_node_key,
    node_public_pem,
)

NAMES = ("signing.key", "node.key")
REJOIN = (
    "ask the coordinator for an invitation (`cohortium coordinator invite SITE --replace`), then "
    "run `cohortium site join INVITE --rejoin`"
)


@dataclass(frozen=True)
class Rotated:
    """Fingerprints before and after, of the signing and the node key; where the old ones lie."""

    signing: tuple[str, str]
    node: tuple[str, str]
    retired: Path


def rotate(directory: SiteDir) -> Rotated:
    """Make new keys, and seal the old ones aside; one that was not `settle`d is finished instead.

    Raises:
        CohortiumError: the keys cannot be read or written.
    """
    keys = directory.signing_key.parent
    ready = keys / "next"
    try:
        if not ready.exists():
            _prepare(directory, ready)
        retired = keys / "retired" / (ready / "name").read_text()
        write_whole(directory.unenrolled, "")
        retired.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in NAMES:
            if (ready / name).exists():
                _exchange(keys / name, ready / name, retired / name)
        return _rotated(directory, retired)
    except OSError as error:
        raise CohortiumError(f"{keys}: cannot be written ({error.strerror})") from None


def settle(directory: SiteDir) -> None:
    """The change is recorded: the next one makes keys of its own."""
    shutil.rmtree(directory.signing_key.parent / "next", ignore_errors=True)


def finish(directory: SiteDir) -> bool:
    """Go on with a change that was cut off (a key may be missing); whether there was one."""
    cut_off = (directory.signing_key.parent / "next").exists()
    if cut_off:
        rotate(directory)
    return cut_off


def record(rotated: Rotated, log: EventLog, actor: Actor) -> list[str]:
    """Two events, one a key; their ids."""
    pairs = {"signing key": rotated.signing, "node key": rotated.node}
    return [
        log.append(
            "key.rotated",
            actor=actor,
            reason=f"the site's {what}",
            detail={"key_before": before, "key_after": after},
        ).id
        for what, (before, after) in pairs.items()
    ]


def require_enrolled(directory: SiteDir) -> None:
    """Raise IdentityError where the keys are new, and the site has not joined with them."""
    if directory.unenrolled.exists():
        raise IdentityError(f"{directory.root}: its keys were changed; {REJOIN}")


def public_keys(directory: SiteDir) -> list[VerifyKey]:
    """The site's signing keys: the present one, then those that were sealed aside.

    Raises:
        IdentityError, CohortiumError: one cannot be read.
    """
    keys = directory.signing_key.parent
    former = sorted(keys.glob("retired/*/signing.pub"))
    try:
        texts = [path.read_text(encoding="utf-8").strip() for path in former]
    except OSError as error:
        raise CohortiumError(f"{keys}: cannot be read ({error.strerror})") from None
    present = SigningKey.load(directory.signing_key).public
    return [present, *(VerifyKey.from_text(text) for text in texts)]


def node_fingerprint(path: Path) -> str:
    """`SHA256:` and the hex digest of a node key's public half."""
    return "SHA256:" + hashlib.sha256(node_public_pem(load_node_key(path))).hexdigest()


def _prepare(directory: SiteDir, ready: Path) -> None:
    """Both new keys in one directory, whole or not at all."""
    draft = ready.with_name(".next")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    SigningKey.generate().save(draft / "signing.key")
    make_node_key(draft / "node.key")
    old = SigningKey.load(directory.signing_key).public
    (draft / "name").write_text(hashlib.sha256(old.raw).hexdigest()[:16])
    draft.rename(ready)


def _exchange(now: Path, new: Path, retired: Path) -> None:
    """The old key is sealed before the new one takes its place."""
    if now.exists():
        os.replace(now, retired)
        retired.chmod(0o400)
    os.replace(new, now)


def _rotated(directory: SiteDir, retired: Path) -> Rotated:
    before, after = SigningKey.load(retired / "signing.key"), SigningKey.load(directory.signing_key)
    write_whole(retired / "signing.pub", f"{before.public.text}\n")
    return Rotated(
        (before.public.fingerprint, after.public.fingerprint),
        (node_fingerprint(retired / "node.key"), node_fingerprint(directory.node_key)),
        retired,
    )

"""Who belongs to the consortium: invitations, enrolled sites, revocations."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.database import Database
from cohortium.common.errors import IdentityError, UsageError
from cohortium.common.identity import VerifyKey, check_node_public_key
from cohortium.common.invitation import JoinRequest, is_token, new_token, token_hash

NOBODYS_HASH = "0" * 64  # compared with where there is no invitation, so that time tells nothing


@dataclass(frozen=True)
class Member:
    """A site with its enrolled keys; `state` is invited, enrolled or revoked."""

    name: str
    state: str
    node_key: bytes
    signing_key: str
    enrolled_ms: int


class Roster:
    """The tables of invitations and sites; every change is an event in the same transaction."""

    def __init__(self, database: Database, log: EventLog) -> None:
        self._database = database
        self._log = log

    def invite(
        self, site: str, lasts: timedelta, now: datetime, actor: Actor, *, replace: bool = False
    ) -> tuple[str, str]:
        """Make a one-time token for a site; returns it and the event's id.

        A new invitation replaces an unused one.

        Args:
            replace: it is for a site that is, or was, enrolled, and comes with new keys.

        Raises:
            UsageError: a site of that name is enrolled, or was, and not to be replaced; or is not.
        """
        known = any(member.name == site for member in self.members() if member.state != "invited")
        if known and not replace:
            raise UsageError(
                f'a site named "{site}" is or was enrolled: choose another name, or let the same '
                "site come back with new keys by --replace"
            )
        if replace and not known:
            raise UsageError(f'no site named "{site}" was ever enrolled: invite without --replace')
        token, expires = new_token(), now + lasts
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO invitations VALUES (?, ?, ?, NULL) ON CONFLICT (site) DO UPDATE "
                "SET token_sha256 = excluded.token_sha256, expires_ms = excluded.expires_ms, "
                "used_ms = NULL",
                (site, token_hash(token), _ms(expires)),
            )
            event = self._log.append(
                "node.invited",
                actor=actor,
                detail={"site": site, "expires": f"{expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"},
            )
        return token, event.id

    def admit(self, request: JoinRequest, now: datetime, actor: Actor) -> Member:
        """Use an invitation up and enrol the site, with its new keys where it was enrolled before.

        Raises:
            IdentityError: no such invitation, used, expired, wrong token, or keys that are no
                keys or another site's.
        """
        check_node_public_key(request.node_key.encode())
        VerifyKey.from_text(request.signing_key)
        try:
            with self._database.transaction():
                self._use_up(request, now)
                self._refuse_known_keys(request)
                self._retire_keys(request, now, actor)
                self._database.execute(
                    "INSERT INTO sites VALUES (?, ?, ?, ?, NULL)",
                    (request.site, request.node_key.encode(), request.signing_key, _ms(now)),
                )
                key = VerifyKey.from_text(request.signing_key)
                detail = {"site": request.site, "fingerprint": key.fingerprint}
                self._log.append("node.enrolled", actor=actor, detail=detail)
        except IdentityError as error:
            self._log.append(
                "auth.fail",
                actor=actor,
                outcome="denied",
                reason=str(error)[:200],
                detail={"site": request.site},
            )
            raise
        return self.member(request.site)

    def revoke(self, site: str, now: datetime, actor: Actor) -> str:
        """Shut a site out for good, or take back its unused invitation.

        Returns:
            The event's id, or nothing where the site was revoked before.

        Raises:
            UsageError: no such site.
        """
        with self._database.transaction():
            withdrawn = self._database.execute(
                "DELETE FROM invitations WHERE site = ? AND used_ms IS NULL RETURNING site", (site,)
            )
            if not withdrawn and self.member(site).state == "revoked":
                return ""
            self._database.execute(
                "UPDATE sites SET revoked_ms = ? WHERE name = ?", (_ms(now), site)
            )
            return self._log.append("node.revoked", actor=actor, detail={"site": site}).id

    def member(self, site: str) -> Member:
        """An enrolled or revoked site; UsageError where there is none of that name."""
        members = {m.name: m for m in self.members() if m.state != "invited"}
        if site not in members:
            known = ", ".join(members) or "none yet"
            raise UsageError(f'no site "{site}" is enrolled here; enrolled: {known}')
        return members[site]

    def members(self) -> list[Member]:
        """Everybody ever enrolled, then those who are only invited, by name."""
        enrolled = [
            Member(
                row["name"],
                "enrolled" if row["revoked_ms"] is None else "revoked",
                row["node_key"],
                row["signing_key"],
                row["enrolled_ms"],
            )
            for row in self._database.execute("SELECT * FROM sites ORDER BY name")
        ]
        invited = self._database.execute(
            "SELECT site FROM invitations WHERE used_ms IS NULL "
            "AND site NOT IN (SELECT name FROM sites) ORDER BY site"
        )
        return enrolled + [Member(row["site"], "invited", b"", "", 0) for row in invited]

    def enrolled(self) -> dict[str, Member]:
        """Those who take part: enrolled and not revoked."""
        return {member.name: member for member in self.members() if member.state == "enrolled"}

    def _use_up(self, request: JoinRequest, now: datetime) -> None:
        rows = self._database.execute("SELECT * FROM invitations WHERE site = ?", (request.site,))
        expected = rows[0]["token_sha256"] if rows else NOBODYS_HASH
        right = is_token(request.token, expected)
        if not rows or not right:
            raise IdentityError("no invitation with that token")
        if rows[0]["used_ms"] is not None:
            raise IdentityError("the invitation was used before")
        if _ms(now) > rows[0]["expires_ms"]:
            raise IdentityError("the invitation has expired")
        self._database.execute(
            "UPDATE invitations SET used_ms = ? WHERE site = ?", (_ms(now), request.site)
        )

    def former(self) -> list[Member]:
        """The keys that sites had before: what they signed then is verified by them."""
        rows = self._database.execute("SELECT * FROM former_keys ORDER BY site, until_ms")
        return [
            Member(row["site"], "replaced", row["node_key"], row["signing_key"], row["enrolled_ms"])
            for row in rows
        ]

    def _retire_keys(self, request: JoinRequest, now: datetime, actor: Actor) -> None:
        """A site that comes back: its keys of before count for the past alone."""
        rows = self._database.execute(
            "DELETE FROM sites WHERE name = ? RETURNING *", (request.site,)
        )
        for row in rows:
            self._database.execute(
                "INSERT INTO former_keys VALUES (?, ?, ?, ?, ?)",
                (row["name"], row["node_key"], row["signing_key"], row["enrolled_ms"], _ms(now)),
            )
            before, after = (
                VerifyKey.from_text(text).fingerprint
                for text in (row["signing_key"], request.signing_key)
            )
            detail = {"site": request.site, "key_before": before, "key_after": after}
            self._log.append("key.rotated", actor=actor, detail=detail)

    def _refuse_known_keys(self, request: JoinRequest) -> None:
        for member in [*self.members(), *self.former()]:
            if request.node_key.encode() == member.node_key or (
                request.signing_key == member.signing_key
            ):
                raise IdentityError("that key is enrolled for a site already")


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)

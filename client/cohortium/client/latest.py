"""The latest time that this site stands by; a clock that falls behind it dates nothing.

An approval that has expired would hold again by a clock set back. A clock that was ahead leaves
nothing here unless something was answered meanwhile; then a person who approves, or resumes, by the
right time vouches for it.
"""

from cohortium.common.database import Database
from cohortium.common.errors import RefusedError

SLACK_MS = 5 * 60_000


class Latest:
    """One row of site.db: when something was last answered here, or a person last decided."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def behind_ms(self, now_ms: int) -> int:
        """How far the clock is behind; 0 within the five minutes that clocks may differ by."""
        rows = self._database.execute("SELECT newest_ms FROM clock")
        behind_ms = int(rows[0]["newest_ms"]) - now_ms if rows else 0
        return behind_ms if behind_ms > SLACK_MS else 0

    def check(self, now_ms: int) -> None:
        """Raise RefusedError `site.clock` where the clock is more than five minutes behind."""
        if behind_ms := self.behind_ms(now_ms):
            raise RefusedError(
                "site.clock",
                f"the site's clock is {behind_ms // 60_000} minutes behind its own records; its "
                "operator sets it right, or runs `cohortium site resume` where it is right now",
            )

    def advance(self, now_ms: int) -> None:
        """Something was answered (inside the caller's transaction)."""
        self._write(now_ms, "max(newest_ms, excluded.newest_ms)")

    def vouch(self, now_ms: int) -> None:
        """A person at the site stands by the time it is now."""
        self._write(now_ms, "excluded.newest_ms")

    def _write(self, now_ms: int, newest: str) -> None:
        self._database.execute(
            "INSERT INTO clock VALUES (1, ?) "
            f"ON CONFLICT (only) DO UPDATE SET newest_ms = {newest}",
            (now_ms,),
        )

"""Whether the site's SIEM takes its events, and how far behind it is."""

from collections.abc import Iterator

from cohortium.client.config import SiteConfig, SiteDir
from cohortium.client.finding import Finding
from cohortium.client.siem_line import open_line
from cohortium.common import daemon
from cohortium.common.audit.siem import STATE_FILE, Standing, standing
from cohortium.common.database import attach_database
from cohortium.common.errors import CohortiumError

ADVICE = "correct [siem] in site.toml, or ask who runs the SIEM; no event is lost meanwhile"


def examine_siem(directory: SiteDir, config: SiteConfig) -> Iterator[Finding]:
    """Resolve, connect, shake hands and end in order; nothing is sent. Nothing without `[siem]`."""
    if config.siem is None:
        return
    target = config.siem.target
    try:
        line = open_line(config.siem, directory.root)
    except CohortiumError as error:
        yield Finding("SIEM", "fail", f"{target}: {error}", ADVICE)
    else:
        try:
            line.finish()
            yield Finding("SIEM", "ok", f"{target} answers, with a certificate for that name")
        except CohortiumError as error:
            yield Finding("SIEM", "fail", f"{target}: {error}", ADVICE)
        finally:
            line.close()
    stream = stream_of(directory, config, daemon.is_running(directory.lock))
    if stream is not None and stream.behind and stream.trouble:
        yield Finding("SIEM stream", "warning", stream.text, "no event is lost: they wait here")


def stream_of(directory: SiteDir, config: SiteConfig, running: bool) -> Standing | None:
    """How a site's stream is; None where there is none, or no database to ask yet."""
    if config.siem is None or not directory.database.exists():
        return None
    with attach_database(directory.database) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'streams'"):
            return None  # an older daemon's: it is brought up to date at the next start
        return standing(config.siem, database, directory.root / STATE_FILE, running)

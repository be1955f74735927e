"""Tables about who took part: approvals, privacy, rounds, messages, logs."""

from cohortium.server.reports import measures, numbers
from cohortium.server.reports.report_data import ReportData, SiteReport
from cohortium.server.reports.table import Cell, Column, Table, cell, text


def sites(data: ReportData) -> Table:
    """Who took part, and on whose decision."""
    return Table(
        "sites",
        "The sites and their approvals",
        (
            Column("Site", ("site",)),
            Column("Patients", ("patients",), number=True),
            Column("Approved by", ("approved_by",)),
            Column("Approved at", ("approved_at",)),
            Column("Remarks", ("remarks",)),
        ),
        tuple(
            (
                text(site.name),
                text(site.patients_band),
                cell(site.approved_by, str, _unknown(data, "not approved")),
                cell(site.approved_at, _short_time, _unknown(data, "not approved")),
                cell(_remarks(site), str, _unknown(data, "none")),
            )
            for site in data.sites
        ),
    )


def privacy(data: ReportData) -> Table:
    """What each site's patients were promised and what it has cost them."""
    return Table(
        "privacy",
        "Privacy spent by each site",
        (
            Column("Site", ("site",)),
            Column("ε of this study", ("epsilon_spent",), number=True),
            Column("ε of all studies", ("epsilon_lifetime",), number=True),
            Column("Lifetime cap", ("epsilon_cap",), number=True),
            Column("δ", ("delta",), number=True),
            Column("Mechanism", ("sampler",)),
            Column("Noise multiplier", ("noise_multiplier",), number=True),
            Column("Noisy steps", ("steps",), number=True),
            Column("Protected unit", ("unit",)),
        ),
        tuple(
            (
                text(site.name),
                cell(site.epsilon_spent, numbers.epsilon, _unknown(data, "not accounted")),
                cell(site.epsilon_lifetime, numbers.epsilon, _unknown(data, "not accounted")),
                cell(site.epsilon_cap, numbers.epsilon, _unknown(data, "no cap")),
                cell(site.delta, numbers.delta, "none"),
                Cell((site.sampler,), _mechanism(site), absent=site.sampler is None),
                cell(site.noise_multiplier, numbers.three_digits, "none"),
                cell(site.steps, numbers.count, _unknown(data, "none")),
                text(f"one {site.unit}"),
            )
            for site in data.sites
        ),
    )


def traffic(data: ReportData) -> Table:
    """Every kind of message that left each site."""
    return Table(
        "traffic",
        "Messages by kind",
        (
            Column("Site", ("site",)),
            Column("Message", ("message",)),
            Column("Count", ("count",), number=True),
            Column("Size in all", ("bytes",), number=True),
        ),
        tuple(
            (
                text(name),
                text(message.kind),
                cell(message.count, numbers.count, ""),
                cell(message.bytes, numbers.size, ""),
            )
            for name, message in [
                *((site.name, message) for site in data.sites for message in site.messages),
                *(("all sites", message) for message in data.traffic),
            ]
        ),
    )


def rounds(data: ReportData) -> Table:
    """The rounds in order."""
    keys = dict.fromkeys(key for item in data.rounds for key in item.headline)
    return Table(
        "rounds",
        "Round by round (means of the sites)",
        (
            Column("Round", ("round",), number=True),
            *(Column(measures.name(key), (key,), number=True) for key in keys),
            Column("Time", ("seconds",), number=True),
            Column("Replied", ("replied",)),
            Column("Missing", ("missing",)),
        ),
        tuple(
            (
                cell(item.round, numbers.count, ""),
                *(
                    cell(item.headline.get(key), measures.writer(key), "not measured")
                    for key in keys
                ),
                cell(item.seconds, numbers.seconds, "not measured"),
                _who(item.replied, len(data.sites)),
                Cell((None,), "blinded", absent=True)
                if item.missing is None
                else cell(" ".join(item.missing) or None, str, "none"),
            )
            for item in data.rounds
        ),
    )


def logs(data: ReportData) -> Table:
    """How long each party's event log is and which digest it has."""
    proof = data.proof
    parties = [("coordinator", proof.coordinator_log_size, proof.coordinator_log_head)]
    parties += [(site.name, site.log_size, site.log_head) for site in data.sites]
    return Table(
        "logs",
        "The event log of every party",
        (
            Column("Party", ("party",)),
            Column("Events", ("events",), number=True),
            Column("Head", ("head",)),
        ),
        tuple(
            (
                text(name),
                cell(events, numbers.count, "stays at the site"),
                cell(head, str, "stays at the site"),
            )
            for name, events, head in parties
        ),
    )


def _unknown(data: ReportData, otherwise: str) -> str:
    return "blinded" if data.blinding == "blinded" else otherwise


def _remarks(site: SiteReport) -> str | None:
    remarks = ("measured only, trained on none of its patients",) if site.external else ()
    return "; ".join((*remarks, *site.reasons)) or None


def _mechanism(site: SiteReport) -> str:
    if site.sampler is None:
        return "no differential privacy"
    batches = {
        "poisson": "each patient drawn by chance for each step (Poisson)",
        "full-batch": "all patients in every step",
    }
    return f"Gaussian noise on clipped gradients, {batches[site.sampler]}"


def _who(names: tuple[str, ...] | None, of: int) -> Cell:
    if names is None:
        return Cell((None,), "blinded", absent=True)
    shown = f"all {of}" if len(names) == of else ", ".join(names) or "nobody"
    return Cell((" ".join(names),), shown)


def _short_time(moment: str) -> str:
    """`2026-11-22T14:03:42.123Z` is `2026-11-22 14:03 UTC`."""
    if moment.endswith("Z") and len(moment) > 16:
        return f"{moment[:10]} {moment[11:16]} UTC"
    return moment

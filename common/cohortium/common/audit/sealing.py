"""Sealing the evidence of an incident: the same export that `cohortium audit export` makes."""

from pathlib import Path

from cohortium.common.audit.evidence import Audience
from cohortium.common.audit.export import ROLES, Request, export
from cohortium.common.audit.party import open_party
from cohortium.common.console import note
from cohortium.common.errors import CohortiumError
from cohortium.common.incident import EVIDENCE, Incident

WAIT_S = 10.0  # for witnesses; the same export, made again, adds those that come later


def seal_evidence(incident: Incident, person: str) -> Path | None:
    """Export and seal the whole record of a party in an incident; the bundle, in its folder.

    Args:
        person: in whose name it is sealed; whoever may declare an incident may seal.

    Returns:
        None where it cannot be made, having said why: nothing else of the incident waits for it.
    """
    out = incident.folder / EVIDENCE
    try:
        out.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        party = open_party(incident.root)
        audience: Audience = "site" if party.role == "site" else "regulator"
        roles = (*ROLES, "operator")
        request = Request(out, audience, person, wait_s=WAIT_S, roles=roles, force=True)
        export(party, request, lambda _: None)
    except (CohortiumError, OSError) as error:
        note(f"the evidence is not sealed: {error}")
        return None
    return out

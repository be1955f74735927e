"""The codes by which FHIR R4 (4.0.1) names our actions: AuditEvent's bindings, and our mapping.

A round fits no BALP profile (they want a patient or a REST interaction), so this is base R4 with
BALP's conventions: Export with action R at the sender, Import with C at the receiver.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

DCM = "http://dicom.nema.org/resources/ontology/DCM"
HL7 = "http://terminology.hl7.org/CodeSystem"
ISO_21089 = f"{HL7}/iso-21089-lifecycle"
ACTIONS = "urn:cohortium:audit:v1:action"  # our vocabulary as a code system

# DICOM PS3.16, CID 400 to 403.
DICOM: Mapping[str, str] = {
    "110100": "Application Activity",
    "110101": "Audit Log Used",
    "110106": "Export",
    "110107": "Import",
    "110112": "Query",
    "110113": "Security Alert",
    "110114": "User Authentication",
    "110120": "Application Start",
    "110121": "Application Stop",
    "110122": "Login",
    "110127": "Emergency Override Started",
    "110129": "Security Configuration",
    "110132": "Use of Restricted Function",
    "110134": "Audit Recording Started",
    "110136": "Security Roles Changed",
    "110137": "User Security Attributes Changed",
    "110140": "Remote Service Operation Stopped",
    "110141": "Local Service Operation Started",
    "110142": "Local Service Operation Stopped",
    "110150": "Application",
    "110152": "Destination Role ID",
    "110153": "Source Role ID",
}
_RECORD = "Record Lifecycle Event"
ISO: Mapping[str, str] = {
    "access": f"Access/View {_RECORD}",
    "amend": f"Amend (Update) {_RECORD}",
    "attest": f"Attest {_RECORD}",
    "deprecate": f"Deprecate {_RECORD}",
    "destroy": f"Destroy/Delete {_RECORD}",
    "extract": f"Extract {_RECORD}",
    "originate": f"Originate/Retain {_RECORD}",
    "receive": f"Receive/Retain {_RECORD}",
    "report": f"Report (Output) {_RECORD}",
    "transmit": f"Transmit {_RECORD}",
    "verify": f"Verify {_RECORD}",
}
LIFECYCLES: Mapping[str, str] = {
    "1": "Origination / Creation",
    "3": "Amendment",
    "4": "Verification",
    "6": "Access / Use",
    "8": "Aggregation / summarization / derivation",
    "9": "Report",
    "10": "Export",
    "12": "Receipt of disclosure",
    "14": "Logical deletion",
    "15": "Permanent erasure / Physical destruction",
}


class Form(NamedTuple):
    """How one action is said: DICOM type, DICOM or ISO subtype, CRUDE, life of what it is about."""

    type: str
    subtype: str
    action: Literal["C", "R", "U", "D", "E"]
    lifecycle: str


FORMS: Mapping[str, Form] = {
    "auth.ok": Form("110114", "110122", "E", ""),
    "auth.fail": Form("110114", "110122", "E", ""),
    "user.role.changed": Form("110113", "110136", "U", "3"),
    "node.invited": Form("110113", "110137", "C", "1"),
    "node.enrolled": Form("110113", "110137", "C", "1"),
    "node.revoked": Form("110113", "110137", "D", "14"),
    "key.rotated": Form("110113", "110129", "U", "3"),
    "study.created": Form("110100", "originate", "C", "1"),
    "protocol.changed": Form("110100", "amend", "U", "3"),
    "study.approved": Form("110100", "attest", "E", "4"),
    "study.rejected": Form("110100", "attest", "E", "4"),
    "approval.withdrawn": Form("110100", "deprecate", "U", "14"),
    "policy.changed": Form("110113", "110129", "U", "3"),
    "dataset.registered": Form("110100", "originate", "C", "1"),
    "dataset.snapshot": Form("110112", "extract", "E", "6"),
    "dataset.retired": Form("110100", "deprecate", "D", "14"),
    "cohort.queried": Form("110112", "access", "E", "6"),
    "run.started": Form("110100", "110120", "E", "6"),
    "run.paused": Form("110100", "110142", "E", ""),
    "run.resumed": Form("110100", "110141", "E", ""),
    "run.completed": Form("110100", "110121", "E", ""),
    "run.stopped": Form("110100", "110121", "E", ""),
    "run.failed": Form("110100", "110121", "E", ""),
    "round.task.received": Form("110107", "receive", "C", "12"),
    "round.update.sent": Form("110106", "transmit", "R", "8"),
    "round.refused": Form("110113", "110132", "E", "6"),
    "round.aggregated": Form("110107", "receive", "C", "8"),
    "node.dropped": Form("110100", "110140", "E", ""),
    "privacy.reserved": Form("110100", "originate", "C", "1"),
    "privacy.spent": Form("110100", "originate", "C", "1"),
    "privacy.released": Form("110100", "amend", "U", "3"),
    "privacy.cap.hit": Form("110113", "110132", "E", "6"),
    "privacy.selftest": Form("110100", "verify", "E", "4"),
    "evaluation.completed": Form("110106", "transmit", "R", "8"),
    "evaluation.calibrated": Form("110106", "transmit", "R", "8"),
    "evaluation.validated": Form("110106", "transmit", "R", "8"),
    "fairness.audit.completed": Form("110100", "report", "E", "9"),
    "flag.raised": Form("110100", "verify", "E", "4"),
    "flag.dispositioned": Form("110100", "attest", "E", "4"),
    "model.released": Form("110100", "attest", "E", "4"),
    "model.downloaded": Form("110106", "transmit", "R", "10"),
    "model.withdrawn": Form("110100", "deprecate", "D", "14"),
    "pccp.modification.executed": Form("110100", "amend", "U", "3"),
    "log.started": Form("110113", "110134", "E", ""),
    "log.checkpoint": Form("110101", "attest", "E", "4"),
    "log.review": Form("110101", "access", "R", "6"),
    "export.sealed": Form("110101", "report", "R", "9"),
    "retention.redacted": Form("110101", "destroy", "D", "15"),
    "clock.skew": Form("110113", "110129", "E", ""),
    "log.equivocation": Form("110113", "verify", "E", "4"),
    "log.behind": Form("110113", "verify", "E", "4"),
    "log.recovered": Form("110101", "originate", "C", "1"),
    "incident.declared": Form("110113", "110127", "E", ""),
}
OUTCOMES: Mapping[str, str] = {"success": "0", "denied": "4", "failure": "8"}
MAJOR = frozenset(("log.equivocation", "log.behind"))  # if they fail: 12, the site goes no further


def dicom(code: str) -> dict[str, str]:
    return {"system": DCM, "code": code, "display": DICOM[code]}


def subtypes(action: str) -> list[dict[str, str]]:
    """The standard code, then our own."""
    code = FORMS[action].subtype
    iso = {"system": ISO_21089, "code": code, "display": ISO.get(code, "")}
    return [iso if code in ISO else dicom(code), {"system": ACTIONS, "code": action}]


def outcome(action: str, said: str) -> str:
    return "12" if said == "failure" and action in MAJOR else OUTCOMES[said]


def hl7(system: str, code: str, display: str) -> dict[str, str]:
    """A coding of one of HL7's own code systems."""
    return {"system": f"{HL7}/{system}", "code": code, "display": display}

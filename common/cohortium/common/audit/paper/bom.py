"""What the two bills of materials share: CycloneDX 1.6 as JSON, the same bytes each time."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

from cohortium.common.audit.evidence import Evidence, Licence
from cohortium.common.audit.paper.text import json_file
from cohortium.common.audit.software import normal

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"

Values = dict[str, Any]


def bom(evidence: Evidence, subject: Values, components: list[Values], **more: Any) -> bytes:
    """A whole document; its serial number is a UUID (RFC 9562, version 5) of its content."""
    content: Values = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": evidence.at,
            "tools": {"components": [cohortium(evidence)]},
            "component": subject,
        },
        "components": components,
        **more,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    serial = uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(text.encode()).hexdigest())
    return json_file({**content, "serialNumber": f"urn:uuid:{serial}"})


def cohortium(evidence: Evidence) -> Values:
    """This program; the digest is over all its installed files (`cohortium/common/code.py`)."""
    return {
        "type": "application",
        "name": "cohortium",
        "version": evidence.version,
        "properties": properties({"cohortium:code": evidence.code}),
    }


def properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    """Those that say something."""
    return [{"name": name, "value": value} for name, value in sorted(values.items()) if value]


def package(name: str, version: str, licence: Licence | None) -> Values:
    """An installed Python package, with its purl."""
    purl = f"pkg:pypi/{normal(name)}@{version.replace('+', '%2B')}"
    found: Values = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    if licence is not None and licence.spdx:
        found["licenses"] = [{"expression": licence.text}]
    elif licence is not None:
        found["licenses"] = [{"license": {"name": licence.text}}]
    return found

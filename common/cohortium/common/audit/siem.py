"""Where a party's events go as they happen: the hospital's or consortium's SIEM."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cohortium.common.document import Document


class SiemConfig(Document):
    """`[siem]` in site.toml or coordinator.toml: syslog over TLS (RFC 5425).

    ca: PEM file of the authority that signed the receiver's certificate; the system's without it.
    """

    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65_535)] = 6514
    format: Literal["ecs", "cef"] = "ecs"
    ca: Annotated[Path, Field(strict=False)] | None = None

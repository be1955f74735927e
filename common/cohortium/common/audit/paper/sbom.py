"""sbom.cdx.json: the packages that were installed where the bundle was made (CycloneDX 1.6)."""

from cohortium.common.audit.evidence import Evidence
from cohortium.common.audit.paper import subject
from cohortium.common.audit.paper.bom import bom, cohortium, package


def sboms(evidence: Evidence) -> dict[str, bytes]:
    """The same list beside each model: of the exporting machine, not of each site's."""
    made = _sbom(evidence)
    return {f"{folder}/sbom.cdx.json": made for folder, _ in subject.folders(evidence)}


def _sbom(evidence: Evidence) -> bytes:
    root = "cohortium"
    packages = [
        package(name, version, evidence.licences.get(name))
        for name, version in sorted(evidence.software.items())
        if name != root
    ]
    refs = [found["bom-ref"] for found in packages]
    return bom(
        evidence,
        {**cohortium(evidence), "bom-ref": root},
        packages,
        compositions=[{"aggregate": "unknown", "assemblies": [root]}],
        dependencies=[{"ref": root, "dependsOn": refs}, *({"ref": ref} for ref in refs)],
    )

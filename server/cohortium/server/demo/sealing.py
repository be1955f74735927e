"""The evidence of the demonstration: sealed while the hospitals can cosign it, then verified."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cohortium.server.demo.processes import command
from cohortium.server.demo.releasing import OFFICER

WAIT_S = 30.0  # for most of the hospitals to cosign what was sealed


def seal(coordinator: Path, workdir: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Export the evidence and verify it as a stranger would.

    Returns:
        Paths of the `bundle`, the `policy` that it was verified by and the `verifier`; who
        cosigned it, `witnesses`; and `verified`.
    """
    where = ("--dir", str(coordinator))
    policy, bundle, verifier = (
        workdir / name for name in ("policy.txt", "evidence.zip", "verify.py")
    )
    command("audit", "policy", "--out", str(policy), *where)
    command("audit", "verifier", "--out", str(verifier))
    sealing = ("--as", OFFICER, "--wait", f"{WAIT_S:g}")
    sealed = command("audit", "export", "--out", str(bundle), *sealing, *where)
    log = sealed["log"]
    say(
        f"\n{OFFICER} sealed the evidence: {sealed['files']} files, {log['shown']} of "
        f"{log['size']} events shown, cosigned by {', '.join(sealed['witnesses']) or 'nobody'}"
    )
    found = command("audit", "verify", str(bundle), "--policy", str(policy))
    say(f"verified: {found['result']}   (again: python {verifier} {bundle} --policy {policy})")
    return {
        "bundle": str(bundle),
        "policy": str(policy),
        "verifier": str(verifier),
        "witnesses": sorted(sealed["witnesses"]),
        "verified": found["result"],
    }

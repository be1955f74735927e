"""Sites cosign the consortium's log over TLS, and go on after restarts."""

import time
from typing import Any

from tests.e2e.deployment import UP_S, Deployment

SITES = ("a", "b", "c")


def settled(consortium: Deployment, timeout_s: float = UP_S) -> dict[str, Any]:
    """What the coordinator says once every site has cosigned all that is logged."""
    deadline = time.monotonic() + timeout_s
    while True:
        said = consortium.at_coordinator("coordinator", "witnesses")
        if {said["sites"][site]["cosigned"] for site in SITES} == {said["events"]}:
            return said
        assert time.monotonic() < deadline, said
        time.sleep(0.3)


def test_every_site_cosigns_all_that_was_logged(consortium: Deployment) -> None:
    said = settled(consortium)
    assert said["unwitnessed"] == 0
    assert said["behind"] == {}
    for site in SITES:
        here = consortium.at_site(site, "witness")
        assert here["cosigned"] == said["events"]
        assert here["shared"] == here["proven"] == said["sites"][site]["events"] > 0
        assert here["alarms"] == []

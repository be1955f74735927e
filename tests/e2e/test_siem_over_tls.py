"""Both daemons stream their own logs, each to the SIEM that its own configuration names."""

import json
from pathlib import Path

import pytest
from tests.common.test_syslog import read_message
from tests.e2e.deployment import Deployment, deployment
from tests.siem_receiver import HOST, Receiver, Trust, receiving, until


def actions(receiver: Receiver) -> list[str]:
    return [read_message(raw)[0]["msgid"] for raw in list(receiver.messages)]


def wait_for_all(consortium: Deployment, party: Path, receiver: Receiver) -> None:
    """Wait until a receiver has what a party has logged by now, in order."""
    logged = [event["action"] for event in consortium.events(party)]
    until(lambda: actions(receiver)[: len(logged)] == logged)


@pytest.mark.slow
def test_each_partys_events_reach_its_own_siem(tmp_path: Path) -> None:
    context = Trust(tmp_path).context((HOST,))
    settings = f'\n[siem]\nhost = "{HOST}"\nca = "{tmp_path}/siem-ca.pem"\nport = '
    with (
        receiving(context) as theirs,
        receiving(context) as ours,
        deployment(tmp_path) as consortium,
    ):
        consortium.start_coordinator(f"{settings}{theirs.port}\n")
        consortium.join("a")
        site = consortium.site("a")
        with (site / "site.toml").open("a") as file:
            file.write(f"{settings}{ours.port}\n")
        consortium.start_site("a").wait_state("online")
        wait_for_all(consortium, site, ours)
        wait_for_all(consortium, consortium.coordinator, theirs)
        assert {"log.started", "node.enrolled"} <= set(actions(theirs))
        bodies = [json.loads(read_message(raw)[2]) for raw in ours.messages]
        assert {body["service"]["node"]["name"] for body in bodies} == {"a"}
        for status, receiver in (
            (consortium.at_site("a", "status"), ours),
            (consortium.at_coordinator("coordinator", "status"), theirs),
        ):
            assert status["siem"]["target"] == f"{HOST}:{receiver.port}"
            assert status["siem"]["trouble"] == ""
        ours.kill()
        assert consortium.daemons["a"].end() == 0

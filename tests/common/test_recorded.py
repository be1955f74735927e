"""An event that was read back for an export says what the event says, to every writer."""

from hypothesis import given, settings
from tests.evidence_samples import evidence
from tests.random_events import events

from cohortium.common.audit import cef, ecs, fhir
from cohortium.common.audit.events import Event
from cohortium.common.audit.evidence import Entry
from cohortium.common.audit.recorded import Recorded, recorded

EVIDENCE = evidence()


def test_every_field_of_an_event_is_there_but_the_version_and_the_salt() -> None:
    assert {*Recorded._fields, "v", "salt"} - {"leaf"} == set(Event.model_fields)


@given(events())
@settings(max_examples=50)
def test_no_writer_can_tell_it_from_the_event(event: Event) -> None:
    light = recorded(event, event.leaf)
    assert ecs.line(light) == ecs.line(event)
    assert cef.line(light) == cef.line(event)
    of_event, of_light = (Entry(7, event.leaf, event.line, one) for one in (event, light))
    assert fhir.audit_event(of_light, EVIDENCE) == fhir.audit_event(of_event, EVIDENCE)

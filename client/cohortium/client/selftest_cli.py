"""`cohortium site selftest`: is private training here as private as it is said to be?"""

from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from cohortium.common.console import JsonFlag, StateDir, emit, note
from cohortium.common.errors import UsageError

if TYPE_CHECKING:
    import torch

    from cohortium.client.selftest.check import Check
    from cohortium.client.selftest.result import Found
    from cohortium.client.site import Site
    from cohortium.common.audit.events import Event
    from cohortium.common.privacy.selftest import Selftest

LEVEL_CHOICE = click.Choice(["L0", "L1", "L2", "all"])
NEXT = "Next: cohortium site selftest --level L1 plants 5000 made-up patients (under a minute)"


def selftest(
    directory: StateDir,
    level: Annotated[
        str,
        typer.Option(
            click_type=LEVEL_CHOICE,
            help="L0: noise, clipping, batches, ledger. L1: planted patients. L2: a study's plan.",
        ),
    ] = "L0",
    study: Annotated[
        str, typer.Option(help="The study whose model and plan L2 uses: name or digest.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Attack this site's private training on made-up patients, and record the verdict.

    Opens no dataset and sends nothing; runs in this process on the site's device.

    Example: cohortium site selftest --level L0 --dir DIR
    """
    from cohortium.client.selftest.result import keep
    from cohortium.client.site import open_site
    from cohortium.client.training.device import choose, use_threads

    levels = ("L0", "L1", *(["L2"] if study else [])) if level == "all" else (level,)
    if (level == "L2") != bool(study) and level != "all":
        raise UsageError("--study and --level L2 (or all) go together: name the study to audit")
    opened = open_site(directory)
    opened.watermark.check()
    use_threads(opened.config.threads)
    device = choose(opened.config.device)
    kept = []
    for each in levels:
        note(f"{each} on {device.description}")
        kept.append(keep(opened, _run(each, opened, study, device.torch), device.torch.type))
    document = {"selftests": [_document(*one) for one in kept]}
    emit(document, "\n".join(_in_words(*one) for one in kept) + _hint(level), as_json)
    if any(test.verdict == "failed" for test, _ in kept):
        raise typer.Exit(1)


def _run(level: str, site: "Site", study: str, device: "torch.device") -> "Found":
    if level == "L0":
        return _mechanism(device)
    if level == "L1":
        return _canaries(device)
    return _one_run(site, study, device)


def _mechanism(device: "torch.device") -> "Found":
    from cohortium.client.selftest import mechanism
    from cohortium.client.selftest.result import of_mechanism

    return of_mechanism([_told(check) for check in mechanism.run(device)])


def _canaries(device: "torch.device") -> "Found":
    from cohortium.client.selftest import canaries

    audited = []
    for plan in canaries.PLANS:
        audited.append(canaries.audit(plan, device))
        for check in canaries.checks_of(audited[-1]):
            _told(check)
    return canaries.found(audited)


def _one_run(site: "Site", name: str, device: "torch.device") -> "Found":
    from cohortium.client.selftest import one_run

    study = site.studies.by_name(name).study
    seen = one_run.audit(study, device)
    note(f"  {seen.right} of {seen.guesses} guesses right: epsilon {seen.epsilon:.2f} at least")
    control = one_run.audit(study, device, noise=0.0)
    note(f"  without noise: epsilon {control.epsilon:.2f} at least")
    return one_run.found(study, seen, control)


def _told(check: "Check") -> "Check":
    note(f"  {'ok' if check.ok else 'WRONG':6}{check.said}")
    return check


def _document(test: "Selftest", event: "Event") -> dict[str, Any]:
    return {**test.model_dump(mode="json"), "event": event.id}


def _in_words(test: "Selftest", event: "Event") -> str:
    return f"{test.level} {test.verdict}: {test.words}   (event {event.id})"


def _hint(level: str) -> str:
    return f"\n{NEXT}" if level == "L0" else ""

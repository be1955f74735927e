"""The whole model of a site that has parameters of its own: nobody else has it."""

from importlib.resources import files as files_of
from pathlib import Path

from cohortium.client import final_model
from cohortium.common.errors import UsageError
from cohortium.common.messages import Vector
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study


def write_own(study: Study, root: Path, out: Path) -> tuple[Path, ...]:
    """The files that `cohortium predict` and the loader want, in a new directory.

    Args:
        root: the site's.

    Raises:
        UsageError: there is no such model here, or the directory is there already.
    """
    from safetensors.numpy import save

    from cohortium.common import arrays
    from cohortium.common.models.adapters import merged
    from cohortium.common.models.building import released_module, study_module
    from cohortium.common.using.checked import checked_onnx
    from cohortium.common.using.described import (
        LOADER_FILE,
        MODEL_FILE,
        ONNX_FILE,
        STUDY_FILE,
        described,
        written,
    )

    found = _found(study, root)
    if out.exists():
        raise UsageError(f"{out} exists and is not overwritten: give another --out")
    model, statistics = found
    module, plain = study_module(study), released_module(study)
    arrays.load_into(module, model)
    parameters = merged(module)
    plain.load_state_dict(parameters)
    facts = described(study, statistics)
    tensors = {name: value.numpy() for name, value in parameters.items()}
    files = {MODEL_FILE: save(tensors), STUDY_FILE: written(facts)}
    graph = checked_onnx(study, plain, facts.statistics)
    if graph is not None:
        loader = files_of("cohortium.common.using") / "loader.py"
        files |= {ONNX_FILE: graph, LOADER_FILE: loader.read_bytes()}
    out.mkdir(parents=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    return tuple(out / name for name in files)


def _found(study: Study, root: Path) -> tuple[Vector, Statistics | None]:
    if not study.transfer.own:
        raise UsageError(
            f"{study.name} gives no site parameters of its own (transfer.own): its model is the "
            "coordinator's to release"
        )
    found = final_model.of(root, study.digest)
    if found is None:
        raise UsageError(
            f"{study.name} has no model here: it is kept at the study's last evaluation, and goes "
            "when the dataset is withdrawn"
        )
    return found

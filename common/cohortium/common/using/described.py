"""`study.json`: from a patient to inputs, and what the outputs of an exported model are called."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cohortium.common.document import Document, canonical, parse_json
from cohortium.common.errors import CohortiumError, UsageError
from cohortium.common.participation import Sites
from cohortium.common.preprocessing.recipe import recipe
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.common.task import (
    BinaryTask,
    ContactsTask,
    LabellingTask,
    MulticlassTask,
    MultilabelTask,
    ReconstructionTask,
    RegressionTask,
    SurvivalTask,
)
from cohortium.common.using.answer import answer, given_back_names

if TYPE_CHECKING:
    from torch import nn

STUDY_FILE: Final = "study.json"
MODEL_FILE: Final = "model.safetensors"
ONNX_FILE: Final = "model.onnx"
LOADER_FILE: Final = "load_model.py"
ADAPTERS_FILE: Final = "adapters.safetensors"
CARD_FILE: Final = "model-card.md"
RELEASE_FILE: Final = "release.json"
ROWS: Final = 2  # the fewest that have a deviation


class Described(Document):
    """Everything but the parameters.

    study: without the names of its sites where it is blinded.
    statistics: of all sites together, where the study has any; how many patients is not said.
    recipe: as `preprocessing/recipe.py` makes it, for those who have no Cohortium.
    outputs: names of the predictions of one patient, in order; none of a generator.
    answer: what the graph takes and gives, as `answer.py` says.
    """

    study: Study
    statistics: Statistics | None
    recipe: tuple[Mapping[str, Any], ...]
    outputs: tuple[str, ...]
    answer: Mapping[str, Any]


def described(study: Study, statistics: Statistics | None) -> Described:
    """What `study.json` holds of a study and the statistics that its sites measured together."""
    told = told_of(study)
    facts = tuple(one.model_dump(mode="json") for one in recipe(told, statistics))
    uncounted = None if statistics is None else _uncounted(statistics)
    return Described(
        study=told,
        statistics=uncounted,
        recipe=facts,
        outputs=prediction_names(told),
        answer=answer(told),
    )


def written(found: Described) -> bytes:
    return canonical(found) + b"\n"


def load_described(folder: Path) -> Described:
    """Read `study.json`.

    Raises:
        UsageError: it is not there, or not what a Cohortium of this version exports.
    """
    path = folder / STUDY_FILE
    try:
        return parse_json(path.read_bytes(), Described, str(path))
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such file; give the directory that `cohortium study export` wrote"
        ) from None
    except CohortiumError as error:
        raise UsageError(f"{error}; was it exported by another version?") from None


def load_module(folder: Path, study: Study) -> "nn.Module":
    """The exported model, ready to predict.

    Raises:
        UsageError: its file is not there, or holds another model than the study's.
    """
    import torch

    from cohortium.common.models.building import released_module

    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UsageError("reading a model needs a package: pip install safetensors") from None
    path, module = folder / MODEL_FILE, released_module(study)
    try:
        found = load_file(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; export the model again") from None
    except Exception:  # the library's own error is no exception of Python's kinds
        raise UsageError(f"{path}: is damaged; export the model again") from None
    expected = dict(module.named_parameters())
    shapes = {name: one.shape for name, one in expected.items()}
    if {name: one.shape for name, one in found.items()} != shapes:
        raise UsageError(f"{path}: is another model than {STUDY_FILE} beside it tells of")
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(found[name])
    return module.eval()


def prediction_names(study: Study) -> tuple[str, ...]:
    """What a patient's predictions are called, in the order of `predict.predictions`.

    States and contacts along a sequence are one text. Inputs given back are columns of the table,
    and how far they are from the patient's. A generator says nothing of anybody.
    """
    task = study.task
    match task:
        case BinaryTask():
            return ("probability",)
        case MulticlassTask():
            return tuple(f"probability_{name}" for name in task.classes(study.data_model))
        case MultilabelTask():
            return tuple(f"probability_{name}" for name in task.labels)
        case RegressionTask() | LabellingTask() | ContactsTask():
            return (task.label,)
        case SurvivalTask() if task.likelihood == "discrete":
            return tuple(f"survival_{horizon:g}" for horizon in task.horizons)
        case SurvivalTask():
            return ("log_hazard_ratio",)
        case ReconstructionTask():
            return given_back_names(study)
    return ()


def told_of(study: Study) -> Study:
    """The study as a model's files tell of it: where it is blinded, its sites have numbers."""
    return without_names(study) if study.evaluation.blinded else study


def without_names(study: Study) -> Study:
    """Sites by number, in the study's order."""
    new = {name: f"site-{place}" for place, name in enumerate(study.sites.names, start=1)}
    sites = json.loads(study.sites.model_dump_json())
    sites["names"] = [new[name] for name in study.sites.names]
    sites["evaluate_only"] = [new[name] for name in study.sites.evaluate_only]
    renamed = Sites.model_validate_json(json.dumps(sites))
    return study.model_copy(update={"sites": renamed})


def _uncounted(statistics: Statistics) -> Statistics:
    """The same means, deviations and projection, of a made-up number of rows."""
    if not statistics.total:
        return statistics.model_copy(update={"count": 0})
    mean, deviation = statistics.mean, statistics.deviation
    squares = ROWS * mean**2 + (ROWS - 1) * deviation**2
    return Statistics(
        count=ROWS,
        total=tuple((ROWS * mean).tolist()),
        squares=tuple(squares.tolist()),
        projection=statistics.projection,
    )

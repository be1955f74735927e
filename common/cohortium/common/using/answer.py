"""What an exported graph takes and gives, as plain facts that travel with the model.

`using/loader.py` needs no more to write what `cohortium predict` writes.
"""

from collections.abc import Mapping
from typing import Any, Final

from cohortium.common.schema import CategoryColumn, FlagColumn, NumberColumn
from cohortium.common.study import Study
from cohortium.common.task import ContactsTask, GenerationTask, LabellingTask, ReconstructionTask
from cohortium.common.wide_columns import NumbersColumn

FEATURES: Final = "features"  # what a graph takes, (n, inputs), or of a generator:
CODES: Final = "codes"  # (n, latent), drawn from a standard normal distribution
PREDICTIONS: Final = "predictions"
ERROR: Final = "reconstruction_error"


def answer(study: Study) -> Mapping[str, Any]:
    """`answer` of `study.json`: the task's kind, and what it takes to write its answers as text.

    labelling: `of`, and `states` in the graph's order. contacts: `of` and `apart`. generation:
    `latent` numbers in a code; `spread`: the deviation of an input about what is made of a code.
    """
    task = study.task
    found: dict[str, Any] = {"kind": task.kind, "takes": FEATURES}
    match task:
        case LabellingTask():
            found |= {"of": task.of, "states": task.states(study.data_model)}
        case ContactsTask():
            found |= {"of": task.of, "apart": task.apart}
        case GenerationTask():
            found |= {"takes": CODES, **made_of(study)}
    return found


def made_of(study: Study) -> Mapping[str, Any]:
    """Of a model that makes rows: `latent` and `spread`."""
    return {
        "latent": getattr(study.model, "latent", 0),
        "spread": getattr(study.model, "spread", 0),
    }


def given_back_names(study: Study) -> tuple[str, ...]:
    """Columns of the table that an autoencoder gives back, and the error of all its inputs.

    What is no column of single values is in the error alone: images, fingerprints, and blocks that
    were reduced.
    """
    single, blocks, reduced = list[str](), list[str](), study.preprocessing.reduce
    for name in study.data.features:
        match study.data_model.columns[name]:
            case NumberColumn() | FlagColumn() | CategoryColumn():
                single.append(name)
            case NumbersColumn() as column if reduced is None or reduced.block != name:
                blocks.extend(column.headers)
    return (*single, *blocks, ERROR)


def in_words(study: Study) -> str:
    """One paragraph about `model.onnx`: what goes in, and what comes out."""
    inputs = f"`{PREDICTIONS}` (n, {study.layout.inputs})"
    match study.task:
        case GenerationTask():
            takes = f"`{CODES}` (n, {made_of(study)['latent']}), drawn from a standard normal "
            takes += "distribution, and no patient"
            gives = f"{inputs}: as many rows of nobody, as inputs in the recipe's order and scale"
            return (
                f"`model.onnx` takes {takes}, and gives {gives}. `python load_model.py 100` draws "
                "codes and writes such rows as a table of the schema."
            )
        case ReconstructionTask():
            gives = f"{inputs}: the inputs given back, in the recipe's order and scale"
        case LabellingTask() as task:
            states = task.states(study.data_model)
            length = study.outputs // len(states)
            gives = f"`{PREDICTIONS}` (n, {length}, {len(states)}): the probability of each state "
            gives += f"of {', '.join(states)} at each place"
        case ContactsTask():
            gives = f"`{PREDICTIONS}` (n, {study.outputs}): the probability that two places touch, "
            gives += "row after row of a square map"
        case _:
            gives = f"`{PREDICTIONS}` (n, k), as `outputs` in `study.json` names them"
    takes = f"`{FEATURES}` (n, {study.layout.inputs}), the inputs that the recipe tells of"
    return f"`model.onnx` takes {takes}, and gives {gives}."

"""The final model as a safetensors file, a piece at a time: a large one is in memory once."""

import hashlib
import json
import struct
from collections.abc import Iterator

import numpy as np
import torch

from cohortium.common import arrays
from cohortium.common.messages import Vector
from cohortium.common.models.adapters import merged
from cohortium.common.models.building import build, study_module
from cohortium.common.preprocessing.encode import feature_names
from cohortium.common.preprocessing.recipe import recipe
from cohortium.common.study import Study
from cohortium.common.transfer import matches
from cohortium.common.using.described import MODEL_FILE, told_of
from cohortium.server.aggregation.optimizer import final_model
from cohortium.server.checkpoints import Checkpoints
from cohortium.server.reports.report_data import ModelReport
from cohortium.server.store import Store, StudyRow

Layout = dict[str, tuple[int, ...]]

LOAD = "from safetensors.torch import load_file; parameters = load_file('model.safetensors')"
PIECE = 2**20  # parameters
ALIGNED = 8  # bytes, that the header's length is a multiple of


def final_vector(row: StudyRow, store: Store) -> Vector:
    """The final model of a completed study, in the order of `released_module`.

    float32 (parameters,); adapters are merged into their layers.
    """
    study, trained = row.study, trained_vector(row, store)
    if not study.transfer.holds:
        return trained
    module = study_module(study)
    arrays.load_into(module, trained)
    parts = merged(module)
    return np.concatenate([parts[name].numpy().ravel() for name, _ in _layout(study)])


def trained_vector(row: StudyRow, store: Store) -> Vector:
    """The same as it was trained: float32 (parameters,), in the order of `study_module`."""
    return final_model(Checkpoints(store.database, row.digest).load(row.study.training.rounds))


def pieces(row: StudyRow, store: Store) -> Iterator[bytes]:
    """The file's bytes, the same whenever they are asked for.

    safetensors' format: length of the header (8, little-endian), header in JSON, then the values of
    each tensor in the header's order. Its library would hold them twice more
    (`tests/server/test_model_file.py` compares with what it writes).
    """
    vector, study = final_vector(row, store), row.study
    starts, end = dict[str, int](), 0
    layout = dict(_layout(study))
    for name, shape in layout.items():
        starts[name], end = end, end + _size(shape)
    yield _header(_released(layout, study), _metadata(row, store))
    for name in sorted(_released(layout, study)):
        first, last = starts[name], starts[name] + _size(layout[name])
        for start in range(first, last, PIECE):
            yield vector[start : min(start + PIECE, last)].astype("<f4").tobytes()


def describe(row: StudyRow, store: Store) -> ModelReport:
    """What there is to say of the file, without writing it."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces(row, store):
        digest.update(piece)
        size += len(piece)
    return ModelReport(
        file=MODEL_FILE,
        sha256=digest.hexdigest(),
        parameters=sum(map(_size, _released(dict(_layout(row.study)), row.study).values())),
        bytes=size,
        load=LOAD,
    )


def _layout(study: Study) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor in the order of the vector; nothing of that size is made."""
    with torch.device("meta"):
        return arrays.layout(build(study.model, study.layout, study.outputs, study.task.per))


def _released(layout: Layout, study: Study) -> Layout:
    """Without what the model's family keeps back."""
    kept = study.model.withheld
    return {name: shape for name, shape in layout.items() if not matches(name, kept)}


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _header(layout: Layout, metadata: dict[str, str]) -> bytes:
    """Tensors by name, as the library sorts those of one type."""
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for name in sorted(layout):
        end = offset + 4 * _size(layout[name])
        header[name] = {"dtype": "F32", "shape": layout[name], "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNED)
    return struct.pack("<Q", len(text)) + text


def _metadata(row: StudyRow, store: Store) -> dict[str, str]:
    """All that it takes to use the model, under one key: several have no order of their own."""
    study = told_of(row.study)
    facts = {
        "study": study.name,
        "study_digest": row.digest,
        "model": study.model.model_dump(mode="json"),
        "inputs": feature_names(study),
        "preprocessing": study.preprocessing.model_dump(mode="json"),
        "recipe": [one.model_dump() for one in recipe(study, store.statistics(row.digest))],
        "task": study.task.model_dump(mode="json"),
        "privacy": study.privacy.model_dump(mode="json"),
    }
    return {"cohortium": json.dumps(facts, sort_keys=True)}

"""The adapters of a released model as a file of their own, for whoever has what they adapt."""

import json
from collections.abc import Iterable

from safetensors.numpy import save

from cohortium.common import arrays
from cohortium.common.models.adapters import of_adapter
from cohortium.common.models.building import study_module
from cohortium.common.using.described import ADAPTERS_FILE
from cohortium.server.model_file import trained_vector
from cohortium.server.store import Store, StudyRow


def adapters(row: StudyRow, store: Store) -> dict[str, Iterable[bytes]]:
    """The file by its name; none where the study adapts nothing.

    Tensors A (rank, inputs) and B (outputs, rank) for each layer; the metadata says of which file
    they adapt the layers, and how much they count.
    """
    transfer = row.study.transfer
    if transfer.adapters is None:
        return {}
    module = study_module(row.study)
    arrays.load_into(module, trained_vector(row, store))
    tensors = {n: p.detach().numpy() for n, p in module.named_parameters() if of_adapter(n)}
    facts = {
        "study": row.study.name,
        "study_digest": row.digest,
        "start_sha256": transfer.start,
        "rank": transfer.adapters.rank,
        "alpha": transfer.adapters.alpha,
    }
    return {ADAPTERS_FILE: [save(tensors, {"cohortium": json.dumps(facts, sort_keys=True)})]}

"""The final model, kept at the site for `site explain` and `site model`, where a study has these.

It is what the coordinator sent to be measured, with this site's own parameters where it has any
(`transfer.own`): only they hold anything of its patients that the consortium has not as well.
"""

import io
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cohortium.common.document import canonical, parse_json
from cohortium.common.files import write_whole
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study

Vector = NDArray[np.float32]
FOLDER, MODEL, STATISTICS = "final", "model.npy", "statistics.json"


def keep(root: Path, study: Study, model: Vector, statistics: Statistics | None) -> None:
    """Below a site's directory, by digest; the same again changes nothing."""
    folder = _folder(root, study.digest)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if statistics is not None:
        write_whole(folder / STATISTICS, canonical(statistics), private=True)
    written = io.BytesIO()
    np.save(written, np.asarray(model, np.float32))
    write_whole(folder / MODEL, written.getvalue(), private=True)


def of(root: Path, study: str) -> tuple[Vector, Statistics | None] | None:
    """The model, float32 (parameters,), and how inputs are prepared; None before the last round."""
    folder = _folder(root, study)
    if not (folder / MODEL).exists():
        return None
    path = folder / STATISTICS
    statistics = parse_json(path.read_bytes(), Statistics, str(path)) if path.exists() else None
    return np.load(folder / MODEL), statistics


def forget(root: Path, study: str) -> None:
    """Its data were withdrawn: what was made of them goes."""
    shutil.rmtree(_folder(root, study), ignore_errors=True)


def _folder(root: Path, study: str) -> Path:
    return root / FOLDER / study

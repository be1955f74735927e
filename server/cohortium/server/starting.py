"""The parameters that a study begins with, where a file gives them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.common.errors import UsageError
from cohortium.common.messages import Vector
from cohortium.common.models.building import study_module
from cohortium.common.study import Study, start_file
from cohortium.common.transfer import matches

Tensors = Mapping[str, NDArray[Any]]


def begin_with(study: Study, file: Path) -> Vector | None:
    """float32 (parameters,) that a study.toml's transfer gives; None where it gives none.

    Raises:
        UsageError: they do not fit the study's model, or a pattern of `transfer` means nothing.
    """
    check_frozen(study)
    given = start_file(file)
    return None if given is None else start_vector(study, given)


def start_vector(study: Study, file: Path) -> Vector:
    """float32 (parameters,): from the file, and the study's seed for what begins anew.

    Raises:
        UsageError: it is not the file that the study names, or does not fit the study's model.
    """
    tensors = _read(study, file)
    parts, used = list[NDArray[np.float32]](), set[str]()
    for name, parameter in study_module(study).named_parameters():
        shape = tuple(parameter.shape)
        if matches(name, study.transfer.initialise):
            parts.append(parameter.detach().numpy().ravel())
            continue
        parts.append(_fitting(tensors, name, shape, file).astype(np.float32).ravel())
        used.add(name)
    unused = sorted(set(tensors) - used)
    if unused and not study.transfer.initialise:
        raise UsageError(
            f"{file}: tensor {unused[0]} is none of the study's model"
            f"{f' (and {len(unused) - 1} more)' if len(unused) > 1 else ''}; correct [model], or "
            "name what begins anew in transfer.initialise"
        )
    return np.concatenate(parts)


def _read(study: Study, file: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    raw = file.read_bytes()
    if hashlib.sha256(raw).hexdigest() != study.transfer.start:
        raise UsageError(f"{file}: changed since the study was read; run the command again")
    try:
        tensors: Tensors = load(raw)
    except SafetensorError:
        raise UsageError(f"{file}: is no safetensors file") from None
    return tensors


def _fitting(
    tensors: Tensors, name: str, shape: tuple[int, ...], file: Path
) -> NDArray[np.float32]:
    advice = f'correct [model], or let it begin anew: transfer.initialise = ["{name}"]'
    if name not in tensors:
        raise UsageError(f"{file}: has no tensor {name}, which the study's model has; {advice}")
    found = tensors[name]
    if found.shape != shape:
        raise UsageError(
            f"{file}: tensor {name} is {_by(found.shape)}, and {_by(shape)} in the study's model; "
            f"{advice}"
        )
    if found.dtype.kind != "f" or not np.isfinite(found).all():
        raise UsageError(f"{file}: tensor {name} holds something else than finite numbers")
    return found


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def check_frozen(study: Study) -> None:
    """Every pattern of `transfer` means something, and something is left to train.

    Raises:
        UsageError: with the names that there are.
    """
    module = study_module(study)
    names = [name for name, _ in module.named_parameters()]
    for key, patterns in (
        ("freeze", study.transfer.freeze),
        ("initialise", study.transfer.initialise),
    ):
        for pattern in patterns:
            if not any(matches(name, (pattern,)) for name in names):
                raise UsageError(
                    f'transfer.{key}: no parameter is called "{pattern}"; there are '
                    f"{', '.join(names[:12])}{' ...' if len(names) > 12 else ''}"
                )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise UsageError("transfer.freeze: everything is frozen, and nothing left to train")

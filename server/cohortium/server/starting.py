"""The parameters that a study begins with, where a file gives them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cohortium.common import arrays
from cohortium.common.errors import UsageError
from cohortium.common.messages import Vector
from cohortium.common.models.adapters import chosen, linear_layers, of_adapter
from cohortium.common.models.building import released_module, study_module
from cohortium.common.study import Study
from cohortium.common.transfer import Adapters, matches

Tensors = Mapping[str, NDArray[Any]]


def start_vector(study: Study, file: Path) -> Vector:
    """float32 (parameters,): from the file, and the study's seed for what begins anew.

    Adapters are not in the file, and change nothing at first.

    Raises:
        UsageError: it is not the file that the study names, or does not fit the study's model.
    """
    tensors = _read(study, file)
    parts, used = list[NDArray[np.float32]](), set[str]()
    for name, parameter in arrays.named(study_module(study)):
        shape = tuple(parameter.shape)
        if of_adapter(name) or matches(name, study.transfer.initialise):
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


def check_patterns(study: Study) -> None:
    """Every pattern of `transfer` means something, and something is left to train.

    Raises:
        UsageError: with the names that there are.
    """
    names = [name for name, _ in released_module(study).named_parameters()]
    for key, patterns in (
        ("freeze", study.transfer.freeze),
        ("initialise", study.transfer.initialise),
        ("own", study.transfer.own),
    ):
        for pattern in patterns:
            if not any(matches(name, (pattern,)) for name in names):
                raise UsageError(
                    f'transfer.{key}: no parameter is called "{pattern}"; there are '
                    f"{', '.join(names[:12])}{' ...' if len(names) > 12 else ''}"
                )
    if study.transfer.adapters is not None:
        _check_adapters(study, study.transfer.adapters)
    module = study_module(study)
    trained = [name for name, _ in arrays.trained_of(module)]
    if not trained:
        raise UsageError("transfer.freeze: everything is frozen, and nothing left to train")
    for name in names:
        if name not in trained and matches(name, study.transfer.own):
            raise UsageError(
                f"transfer.own: {name} is frozen, and no site trains it; name what is trained: "
                f"{', '.join(trained[:12])}"
            )
    if not arrays.travelling(module):
        raise UsageError(
            "transfer.own: everything that is trained is each site's own, and nothing left to "
            "learn together"
        )


def _check_adapters(study: Study, adapters: Adapters) -> None:
    module = released_module(study)
    layers = linear_layers(module)
    if not layers:
        raise UsageError(
            f"transfer.adapters: model {study.model.name} has no linear layer; use transfer.freeze"
        )
    there = ", ".join(f"{name or '(the model)'} ({_wide(one)})" for name, one in layers.items())
    for pattern in adapters.layers:
        if not any(matches(name, (pattern,)) for name in layers):
            raise UsageError(
                f'transfer.adapters.layers: no linear layer is called "{pattern}"; there are '
                f"{there}"
            )
    adapted = chosen(module, adapters, study.transfer.initialise)
    if not adapted:
        raise UsageError(
            "transfer.adapters.layers: every layer meant begins anew by transfer.initialise, and "
            "nothing is adapted; remove transfer.adapters, or name others"
        )
    for name, layer in adapted.items():
        if adapters.rank > (most := min(layer.in_features, layer.out_features)):
            raise UsageError(
                f"transfer.adapters.rank: {adapters.rank} is larger than layer "
                f"{name or '(the model)'} ({_wide(layer)}), whose rank is {most} at most; lower "
                f"it, or let transfer.adapters.layers name others of {there}"
            )


def _wide(layer: nn.Linear) -> str:
    return _by((layer.out_features, layer.in_features))

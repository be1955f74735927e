"""dp-accounting's interchange record, `DpEvent`, as JSON: what an auditor composes again.

Only what this program runs is written or read: Gaussian noise, on a Poisson sample or on all, so
many times. Numbers are decimal strings that give the same float back.
"""

from collections.abc import Mapping
from typing import Any

from dp_accounting import dp_event

from cohortium.common.errors import DocumentError

MAX_STEPS = 2**53


def to_json(event: dp_event.DpEvent) -> dict[str, Any]:
    """A mechanism's record.

    Raises:
        TypeError: none of the three that we run.
    """
    if isinstance(event, dp_event.GaussianDpEvent):
        return {"type": "Gaussian", "noise_multiplier": repr(float(event.noise_multiplier))}
    if isinstance(event, dp_event.PoissonSampledDpEvent):
        rate = repr(float(event.sampling_probability))
        inner = to_json(event.event)
        return {"type": "PoissonSampled", "sampling_probability": rate, "event": inner}
    if isinstance(event, dp_event.SelfComposedDpEvent):
        return {"type": "SelfComposed", "count": event.count, "event": to_json(event.event)}
    raise TypeError(f"{type(event).__name__} is no event of ours")


def from_dp_json(values: Mapping[str, Any]) -> dp_event.DpEvent:
    """The record as dp-accounting knows it, equal to `Mechanism.event()` of what was written.

    Raises:
        DocumentError: another type, a number out of range, or a key too many or too few.
    """
    if not isinstance(values, Mapping):
        raise DocumentError("dp: must be an object with a type")
    kind = values.get("type")
    if kind == "Gaussian":
        (noise,) = _exactly(values, "noise_multiplier")
        return dp_event.GaussianDpEvent(_number(noise, "noise_multiplier", 0.0, float("inf")))
    if kind == "PoissonSampled":
        rate, inner = _exactly(values, "sampling_probability", "event")
        chance = _number(rate, "sampling_probability", 0.0, 1.0)
        return dp_event.PoissonSampledDpEvent(chance, from_dp_json(inner))
    if kind == "SelfComposed":
        count, inner = _exactly(values, "count", "event")
        if type(count) is not int or not 0 <= count < MAX_STEPS:
            raise DocumentError("dp: count must be a whole number from 0")
        return dp_event.SelfComposedDpEvent(from_dp_json(inner), count)
    raise DocumentError("dp: type must be Gaussian, PoissonSampled or SelfComposed")


def _exactly(values: Mapping[str, Any], *keys: str) -> list[Any]:
    if set(values) != {"type", *keys}:
        raise DocumentError(f"dp: {values['type']} has the keys type, {', '.join(keys)}, no others")
    return [values[key] for key in keys]


def _number(text: Any, key: str, low: float, high: float) -> float:
    try:
        value = float(text) if isinstance(text, str) else float("nan")
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise DocumentError(f"dp: {key} must be a decimal text from {low:g} to {high:g}")
    return value

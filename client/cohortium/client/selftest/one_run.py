"""L2: the one-run audit of a study's own plan, on patients made up from its schema.

Steinke, Nasr & Jagielski 2023. The attacker knows everybody but the canaries' coins, sees every
step of a site that trains alone, and guesses who was planted. What it finds is a proof, up to 5 %,
that epsilon is not lower; it is also blunt, and cannot exceed a ceiling. A run without any noise
says whether this audit could have found the claim wrong at all: where not, it shows nothing.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from cohortium.client import local_round
from cohortium.client.selftest.check import Vector, Watched, Wide, gradient
from cohortium.client.selftest.result import Found
from cohortium.client.selftest.synthetic import patients
from cohortium.client.training import full_batch, private
from cohortium.common import arrays, bands
from cohortium.common.errors import UsageError
from cohortium.common.loss import per_example
from cohortium.common.models.building import study_module
from cohortium.common.privacy.accounting import epsilon
from cohortium.common.privacy.empirical import SIGNIFICANCE, Mask, OneRun, one_run
from cohortium.common.privacy.noise import NoiseSource
from cohortium.common.privacy.plan import planned_in_all
from cohortium.common.privacy.selftest import Verdict
from cohortium.common.study import Study

OTHERS = 200  # patients whom the attacker knows
LEAST, MOST = 20, 1000  # canaries
BELIEFS = (1.0, 0.1)  # in the noise that is claimed: what is too little shows to who expects less
WORK = 4 * 10**9  # values of canaries' gradients in a run; minutes on one core
Look = Callable[[Vector, Wide], None]


@dataclass(frozen=True)
class Shadow:
    """A site that trains alone: the study, how much of its noise, and where."""

    study: Study
    noise: float
    device: torch.device

    def train(self, module: nn.Module, features: Vector, labels: Vector, look: Look) -> None:
        """All rounds; `look` gets the model before each release, and the released sum.

        Of the sum, (trained,), those values of the model, (d,), that are trained.
        """
        model = arrays.flatten(module)
        rounds = self.study.rounds_at_a_site
        for _ in range(rounds):
            one = self._full if self.study.training.batches == "full" else self._poisson
            model = one(module, model, features, labels, look)

    def _poisson(
        self, module: nn.Module, start: Vector, features: Vector, labels: Vector, look: Look
    ) -> Vector:
        plan = local_round.private_plan(self.study, bands.nominal(len(features)))

        def seen(optimiser: torch.optim.Optimizer) -> None:
            released = gradient(optimiser).astype(np.float64) * plan.expected_batch_size
            look(arrays.flatten(module), released)

        watched = replace(
            plan,
            noise_multiplier=self.noise * plan.noise_multiplier,
            optimiser=Watched(**asdict(plan.optimiser), look=seen),
        )
        done = private.train(module, start, features, labels, watched, NoiseSource(), self.device)
        return start + done.delta

    def _full(
        self, module: nn.Module, start: Vector, features: Vector, labels: Vector, look: Look
    ) -> Vector:
        plan = local_round.full_batch_plan(self.study, bands.nominal(len(features)))
        less = replace(plan, noise_multiplier=self.noise * plan.noise_multiplier)
        done = full_batch.train(module, start, features, labels, less, NoiseSource(), self.device)
        released = -done.delta.astype(np.float64) * plan.nominal_rows
        look(start, released[arrays.trained(module)])
        moved: Vector = start + np.float32(self.study.strategy.learning_rate) * done.delta
        return moved


class Attacker:
    """Estimates each canary's coin from all releases together.

    A release is known up to the coins c and to noise: sum = expected + q G^T (c - 1/2) + noise, G
    holding the canaries' clipped gradients (m, d). The best linear estimate of c - 1/2, whose
    variance is 1/4, is (4 s^2 I + sum q^2 G G^T)^-1 sum q G (sum - expected), where s^2 is the
    noise of one coordinate, that of batches included. It takes canaries apart that resemble each
    other, and says nothing of those that cannot be told apart.

    Args:
        canaries, others: features and labels; of the canaries each is planted by a fair coin.
        noise: that is claimed, of a sum, in units of the clip norm.
    """

    def __init__(
        self,
        study: Study,
        module: nn.Module,
        canaries: tuple[Vector, Vector],
        others: tuple[Vector, Vector],
        noise: float,
    ) -> None:
        assert study.privacy.clip_norm is not None
        self._study = study
        self._module = module
        self._clip_norm = study.privacy.clip_norm
        self._canaries = _tensors(canaries)
        self._others = _tensors(others)
        self._rate = study.training.sample_rate or 1.0
        self._variance = (noise * self._clip_norm) ** 2
        self._products = np.zeros(len(canaries[0]))
        self._overlaps = np.zeros((len(canaries[0]), len(canaries[0])), np.float32)
        self._sampling = 0.0
        self._releases = 0

    def look(self, model: Vector, released: Wide) -> None:
        """Learn from one release: the model (d,), and the sum of what of it is trained."""
        q = self._rate
        arrays.load_into(self._module, model)
        own = self._clipped()
        known = full_batch.clipped_sum(
            self._module, *self._others, self._study.task.kind, self._clip_norm
        )
        expected = q * (known + own.sum(axis=0, dtype=np.float64) / 2)
        self._products += q * (own @ (released - expected))
        self._overlaps += q**2 * (own @ own.T)
        rows = len(own) / 2 + len(self._others[0])
        self._sampling += q * (1 - q) * rows * self._clip_norm**2 / len(released)
        self._releases += 1

    def scores(self, belief: float) -> Wide:
        """The estimates, (m,), high for planted, of who believes in a share of the noise."""
        sampling = self._sampling / self._releases
        tiny = 1e-6 * float(np.trace(self._overlaps)) / len(self._overlaps)
        ridge = 4 * (belief**2 * self._variance + sampling) + tiny
        system = self._overlaps + ridge * np.eye(len(self._overlaps))
        return np.asarray(np.linalg.solve(system, self._products), np.float64)

    def guess(self, planted: Mask, delta: float) -> OneRun:
        """The best of what each belief finds, at 5 % for all of them together."""
        level = SIGNIFICANCE / len(BELIEFS)
        found = [one_run(self.scores(belief), planted, delta, level) for belief in BELIEFS]
        return max(found, key=lambda run: run.epsilon)

    def _clipped(self) -> Vector:
        """The canaries' gradients, clipped, (m, trained)."""
        named = {name: p.detach() for name, p in arrays.trained_of(self._module)}

        def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            logits = functional_call(self._module, values, (x[None],))
            return per_example(self._study.task.kind, logits, y[None])[0]

        each = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")
        found = each(named, *self._canaries)
        flat = torch.cat([g.flatten(1) for g in found.values()], dim=1).nan_to_num(0.0)
        norms = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        clipped: Vector = (flat * (self._clip_norm / norms.clamp(min=self._clip_norm))).numpy()
        return clipped


def audit(study: Study, device: torch.device, noise: float = 1.0) -> OneRun:
    """One shadow run with `noise` of the study's noise, attacked.

    Raises:
        UsageError: the study promises no privacy, so that there is nothing to audit.
    """
    mechanism = planned_in_all(study)
    if mechanism is None or study.privacy.delta is None:
        raise UsageError(f"{study.name} promises no privacy: there is nothing to audit")
    features, labels = patients(study, MOST + OTHERS, np.random.default_rng())
    module, copy = (study_module(study) for _ in range(2))
    trained = sum(p.numel() for _, p in arrays.trained_of(module))
    count = _canaries(trained, mechanism.steps)
    planted: Mask = NoiseSource().uniform(count) < 0.5
    attacker = Attacker(
        study,
        copy,
        (features[:count], labels[:count]),
        (features[MOST:], labels[MOST:]),
        mechanism.noise_multiplier,
    )
    there = np.concatenate([np.flatnonzero(planted), np.arange(MOST, MOST + OTHERS)])
    Shadow(study, noise, device).train(module, features[there], labels[there], attacker.look)
    return attacker.guess(planted, study.privacy.delta)


def found(study: Study, seen: OneRun, control: OneRun) -> Found:
    """L2: failed above the claim; passed only where a run without noise would have failed."""
    claim = claimed(study)
    verdict: Verdict = "failed"
    if seen.epsilon > claim:
        words = f"epsilon is {seen.epsilon:.2f} at least, and {claim:.2f} is claimed"
    elif control.epsilon > claim:
        verdict = "passed"
        words = (
            f"consistent with the claim of {claim:.2f}: epsilon is {seen.epsilon:.2f} at least, "
            f"and without noise it would be seen to be {control.epsilon:.2f} at least"
        )
    else:
        verdict = "inconclusive"
        words = (
            f"the audit cannot reach the claimed epsilon: even without noise it shows "
            f"{control.epsilon:.2f} at most of {claim:.2f}; of the study it shows "
            f"{seen.epsilon:.2f}"
        )
    return Found(
        level="L2",
        verdict=verdict,
        words=f"{words} ({seen.right} of {seen.guesses} guesses about {seen.canaries} right)",
        claim=claim,
        estimate=seen.epsilon,
        control=control.epsilon,
        numbers={
            "canaries": float(seen.canaries),
            "guesses": float(seen.guesses),
            "right": float(seen.right),
        },
        study=study.digest,
    )


def claimed(study: Study) -> float:
    """Epsilon of all rounds of the study at one site, at its delta."""
    mechanism = planned_in_all(study)
    assert mechanism is not None
    assert study.privacy.delta is not None
    return epsilon([mechanism], study.privacy.delta)


def _canaries(parameters: int, steps: int) -> int:
    """As many as the model has room for: beyond that they drown each other."""
    return max(LEAST, min(MOST, parameters, WORK // (parameters * steps)))


def _tensors(rows: tuple[Vector, Vector]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows[0].copy()), torch.from_numpy(rows[1].copy())

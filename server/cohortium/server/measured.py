"""What the sites' evaluations of a final model say, as a report shows it."""

from collections.abc import Mapping

from cohortium.common.fairness.attributes import declared
from cohortium.common.fairness.audit import audit
from cohortium.common.fairness.verdicts import FairnessAudit
from cohortium.common.metrics.calibration import PooledCalibration
from cohortium.common.metrics.performance import Performance, by_group, of_study
from cohortium.common.metrics.tallies import UNKNOWN, SiteEvaluation, Tally
from cohortium.common.study import Study
from cohortium.common.task import SurvivalTask
from cohortium.server.reports import curves
from cohortium.server.reports.findings import (
    CalibrationLine,
    Curve,
    GroupPerformance,
    Horizon,
    NetBenefit,
)

Evaluations = Mapping[str, SiteEvaluation]


class Measured:
    """Everything from the evaluations of one model, in the study's order of sites."""

    def __init__(
        self, study: Study, evaluations: Evaluations, calibration: PooledCalibration | None = None
    ) -> None:
        self.study, self._calibration = study, calibration
        self.evaluations = {s: evaluations[s] for s in study.sites.names if s in evaluations}
        self._tallies: dict[str, Tally] = {s: e.overall for s, e in self.evaluations.items()}

    def performance(self) -> tuple[Performance, ...]:
        return of_study(self.evaluations, self.study) if self.evaluations else ()

    def by_group(self) -> tuple[GroupPerformance, ...]:
        """Declared attributes, then intersections, each in its order; `unknown` levels last."""
        found = by_group(self.evaluations, self.study)
        return tuple(
            GroupPerformance(attribute=attribute, level=level, performance=found[attribute, level])
            for attribute, level in self._ordered(list(found))
        )

    def audit(self) -> FairnessAudit | None:
        """None where no site measured anything by group: there is nothing to compare."""
        asked = self.study.fairness.attributes or self.study.fairness.intersections
        return audit(self.study, self.evaluations) if asked and self.evaluations else None

    def reliability(self) -> tuple[Curve, ...]:
        return curves.reliability(self._tallies)

    def net_benefit(self) -> tuple[NetBenefit, ...]:
        return curves.net_benefit(self._tallies, self.study.evaluation.thresholds)

    def calibration(self) -> tuple[CalibrationLine, ...]:
        """Over all sites' rows, overall and by group; then as each site fits its own."""
        return (
            *curves.pooled_calibration(self._calibration),
            *curves.site_calibration(self._tallies),
        )

    def horizons(self) -> tuple[Horizon, ...]:
        task = self.study.task
        times = task.horizons if isinstance(task, SurvivalTask) else ()
        return curves.horizons(self._tallies, times)

    def _ordered(self, groups: list[tuple[str, str]]) -> list[tuple[str, str]]:
        known = [
            (one.name, level) for one in declared(self.study) for level in (*one.levels, UNKNOWN)
        ]
        return sorted(groups, key=lambda g: known.index(g) if g in known else len(known))

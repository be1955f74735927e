"""A few rules that imitate a study's final model on this site's patients, and how well they do.

A decision tree (Breiman et al. 1984, as scikit-learn's) learns the model's answers, not the
outcome, from the patients who trained, and is held against the model on those who did not (Craven &
Shavlik 1996). Its thresholds are single patients' values, so that all of it stays at the site.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.client.scoring import scores
from cohortium.common.errors import UsageError
from cohortium.common.explaining.told import classes
from cohortium.common.preprocessing.encode import encode_inputs
from cohortium.common.preprocessing.split import train_mask
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.schema import CategoryColumn, FlagColumn, NumberColumn
from cohortium.common.study import Study
from cohortium.common.table import Table
from cohortium.common.task import BinaryTask, MulticlassTask
from cohortium.common.wide_columns import NumbersColumn, SequenceColumn

DEPTH, LEAF = 3, 10  # questions in a row; patients behind a rule

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """`conditions` that all hold, what the model says then, and of how many patients it was learnt.

    `share`: of them of whom the model says just that; of numbers, None.
    """

    conditions: tuple[str, ...]
    says: str
    patients: int
    share: float | None


@dataclass(frozen=True)
class Surrogate:
    """The rules of a tree, the largest first.

    Attributes:
        fidelity: on held-out patients: share of whom tree and model say the same, or R^2 of the
            model's numbers; None where nobody is held out.
        simplest: the same of always giving the model's commonest answer; 0 of numbers.
    """

    rules: tuple[Rule, ...]
    fidelity: float | None
    simplest: float
    held_out: int


def surrogate(
    study: Study,
    table: Table,
    model: NDArray[np.float32],
    statistics: Statistics | None,
    site: str,
) -> Surrogate:
    """Imitate a model, float32 (parameters,), on all rows of the site's table.

    Raises:
        UsageError: the study's columns cannot be asked about one by one, or patients are too few.
    """
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    names, inputs = _questions(study, table)
    said, words = _answers(
        study, scores(study, model, encode_inputs(table, study, site, statistics))
    )
    trained = train_mask(table, study, site)
    if trained.sum() < 2 * LEAF:
        raise UsageError(f"a tree needs {2 * LEAF} training patients; this site has fewer")
    kind: Any = DecisionTreeClassifier if words else DecisionTreeRegressor
    tree = kind(max_depth=DEPTH, min_samples_leaf=LEAF, random_state=0)
    tree.fit(inputs[trained], said[trained])
    rules = sorted(_rules(tree, names, words, study), key=lambda rule: -rule.patients)
    held = ~trained
    if not held.any():
        return Surrogate(tuple(rules), None, 0.0, 0)
    simplest = float((said[held] == _commonest(said[trained])).mean()) if words else 0.0
    fidelity = float(tree.score(inputs[held], said[held]))
    return Surrogate(tuple(rules), fidelity, simplest, int(held.sum()))


def _commonest(said: NDArray[Any]) -> Any:
    values, counts = np.unique(said, return_counts=True)
    return values[counts.argmax()]


def _answers(study: Study, found: Floats) -> tuple[NDArray[Any], tuple[str, ...]]:
    """What the model says of each patient, and the words for it; no words for numbers."""
    match study.task:
        case BinaryTask():
            return (found > 0.5).astype(np.int64), ("no", "yes")
        case MulticlassTask():
            return found.argmax(axis=1), classes(study)
    if found.ndim == 1:
        return found, ()
    if study.task.kind == "survival":
        return found[:, -1], ()
    raise UsageError(f"a tree imitates one answer for each patient; {study.task.kind} gives many")


def _questions(study: Study, table: Table) -> tuple[list[str], Floats]:
    """What a tree may ask, in the table's own units, and the answers (n, questions)."""
    found = dict(_asked(study, table))
    if not found:
        raise UsageError("a tree asks about columns of numbers, codes or letters; here are none")
    return list(found), np.column_stack(list(found.values()))


def _asked(study: Study, table: Table) -> Iterator[tuple[str, Floats]]:
    for name in study.data.features:
        match study.data_model.columns[name]:
            case NumberColumn():
                yield name, table.numbers[name]
            case FlagColumn():
                codes = table.codes[name]
                yield name, np.where(codes < 0, np.nan, codes)
            case CategoryColumn() as column:
                for number, code in enumerate(column.codes):
                    yield f"{name} is {code}", (table.codes[name] == number).astype(np.float64)
            case NumbersColumn() as column:
                for number, header in enumerate(column.headers):
                    yield header, table.wide[name][:, number]
            case SequenceColumn() as column:
                letters = [text.ljust(column.length) for text in table.wide[name].tolist()]
                for place in range(column.length):
                    for letter in column.letters:
                        has = [text[place] == letter for text in letters]
                        yield f"{name} {place + 1} is {letter}", np.array(has, np.float64)


def _rules(tree: Any, names: list[str], words: tuple[str, ...], study: Study) -> Iterator[Rule]:
    grown = tree.tree_

    def below(node: int, conditions: tuple[str, ...]) -> Iterator[Rule]:
        left, right = grown.children_left[node], grown.children_right[node]
        if left == right:
            value = grown.value[node][0]
            says = words[int(tree.classes_[value.argmax()])] if words else f"{value[0]:.4g}"
            share = float(value.max() / value.sum()) if words else None
            yield Rule(conditions, says, int(grown.n_node_samples[node]), share)
            return
        name, at = names[grown.feature[node]], float(grown.threshold[node])
        no, yes = _words(name, at, study)
        yield from below(left, (*conditions, no))
        yield from below(right, (*conditions, yes))

    return below(0, ())


def _words(name: str, threshold: float, study: Study) -> tuple[str, str]:
    """A question answered with no, and with yes."""
    column = study.data_model.columns.get(name)
    if " is " in name and column is None:
        return name.replace(" is ", " is not ", 1), name
    if isinstance(column, FlagColumn):
        return f"{name} is no", f"{name} is yes"
    return f"{name} <= {threshold:.4g}", f"{name} > {threshold:.4g}"

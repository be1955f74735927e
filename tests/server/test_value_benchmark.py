"""Alone, together, without the site and pooled: a small simulation through real federations."""

import pytest
from benchmarks import value


def test_all_four_models_are_measured_at_each_ward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value, "ROUNDS", 2)
    monkeypatch.setattr(value, "WARDS", {"a": 60, "b": 80, "c": 100})
    rows = value.run(3.0, None, seed=1)
    assert [row.site for row in rows] == ["a", "b", "c"]
    for row in rows:
        assert row.alone is not None
        assert row.together is not None
        assert row.unseen is not None
        assert row.pooled is not None
        assert min(row.alone, row.pooled) > 0.8  # wards in which a marker decides

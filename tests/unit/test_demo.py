"""Which days `iom demo` and `iom run` score and what they hand to the report; the runs themselves are replaced."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from iom_platform.cli import runs

DAY = date(2026, 5, 1)


@pytest.mark.parametrize(("first", "before"), [("2013-01-01", (date(2026, 4, 24),)), ("2026-04-25", ())])
def test_the_demo_scores_the_week_before_first(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch, first: str, before: tuple[date, ...]
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setenv("IOM_INSTITUTION__FIRST_AS_OF", first)
    monkeypatch.setattr(runs, "today", lambda settings: DAY)
    monkeypatch.setattr(runs, "write_synthetic", lambda *arguments, **options: None)
    monkeypatch.setattr(runs, "run_source", lambda *arguments, **options: asked.append(options))
    runs.run_demo(students=100, seed=1)
    assert [(one["days_before"], one["as_of_on"], one["refit"]) for one in asked] == [(before, DAY, False)]


def test_only_a_twin_has_a_truth_beside_it(tmp_path: Path) -> None:
    delivered, truth = tmp_path / "twin", tmp_path / "twin-truth" / "truth.csv"
    delivered.mkdir()
    assert runs._truth_of("synthetic", delivered) is None
    truth.parent.mkdir()
    truth.touch()
    assert runs._truth_of("synthetic", delivered) == str(truth)
    assert runs._truth_of("oulad", delivered) is None

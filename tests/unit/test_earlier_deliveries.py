"""What a delivery is held against when it lands: the courses of other sources, its own bytes, what an increment adds to."""

from collections.abc import Iterator
from datetime import date

import dagster as dg
import duckdb
import pytest

from iom_platform.extract.source import Delivery, Scope
from iom_platform.flow.extract import (
    _in_effect_before,
    _known_keys,
    _refuse_foreign_courses,
    _refuse_other_declaration,
)
from iom_platform.storage.warehouse import prepare_warehouse


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        prepare_warehouse(connection)
        yield connection


def _delivery(name: str, day: int, scope: Scope = "full", source: str = "oulad") -> Delivery:
    return Delivery(source, name, name, date(2026, 5, day), scope, (), (), ())


def _land(
    con: duckdb.DuckDBPyConnection, delivery: Delivery, *, is_accepted: bool = True, starts_on: date | None = None
) -> Delivery:
    """The delivery with the course M1-2025J, and a course and a student that bear its name."""
    d = delivery
    con.execute(
        "insert into raw.deliveries values (?, ?, ?, ?, ?, ?, now()::timestamp)",
        [d.delivery_id, d.source, d.delivered_on, d.scope, d.sha256, is_accepted],
    )
    for module in ("M1", f"M-{d.delivery_id}"):
        con.execute(
            "insert into raw.oulad_courses values (?, ?, 'courses.csv', 1, ?, '2025J', 240, ?)",
            [d.source, d.delivery_id, module, starts_on],
        )
    con.execute(
        "insert into raw.oulad_student_info by name (select ? as source, ? as delivery_id, 'studentInfo.csv' as file_name, "
        "1 as file_row, 'M1' as code_module, '2025J' as code_presentation, ? as student_pseudonym, "
        "0 as num_of_prev_attempts, 60 as studied_credits)",
        [d.source, d.delivery_id, f"s-{d.delivery_id}"],
    )
    return delivery


def test_only_an_accepted_delivery_claims_a_course(con: duckdb.DuckDBPyConnection) -> None:
    _land(con, _delivery("typo", 1, source="synthetic"), is_accepted=False)
    ours = _land(con, _delivery("ours", 2), is_accepted=False)
    _refuse_foreign_courses(con, ours)
    con.execute("update raw.deliveries set is_accepted = true where delivery_id = 'typo'")
    with pytest.raises(dg.Failure) as refused:
        _refuse_foreign_courses(con, ours)
    assert "course M1-2025J was delivered by source synthetic before" in str(refused.value.description)


def test_the_same_bytes_may_not_declare_another_day_or_scope(con: duckdb.DuckDBPyConnection) -> None:
    assert not _refuse_other_declaration(con, _delivery("a", 1))
    _land(con, _delivery("a", 1))
    assert _refuse_other_declaration(con, _delivery("a", 1))
    for other, declared in (
        (_delivery("a", 2), "2026-05-02 and full"),
        (_delivery("a", 1, "increment"), "2026-05-01 and increment"),
    ):
        with pytest.raises(dg.Failure) as refused:
            _refuse_other_declaration(con, other)
        assert refused.value.description == (
            "these bytes have landed before with delivered_on 2026-05-01 and scope full, and now declare "
            f"{declared}; declare them as before, or deliver other files."
        )


def test_an_increment_adds_to_what_is_in_effect_before_it(con: duckdb.DuckDBPyConnection) -> None:
    _land(con, _delivery("b-full", 3), starts_on=date(2025, 9, 29))
    _land(con, _delivery("old-full", 1))
    _land(con, _delivery("old-more", 2, "increment"))
    _land(con, _delivery("a-same-day-but-before-the-full", 3, "increment"))
    _land(con, _delivery("d-more", 4, "increment"), starts_on=date(2025, 10, 6))
    _land(con, _delivery("c-more", 4, "increment"), starts_on=date(2025, 10, 5))
    _land(con, _delivery("f-after", 4, "increment"))
    _land(con, _delivery("later-full", 9))
    _land(con, _delivery("bad-full", 4), is_accepted=False)
    _land(con, _delivery("a-other", 4, source="synthetic"))
    increment = _delivery("e-this", 4, "increment")
    assert _in_effect_before(con, increment) == ["b-full", "c-more", "d-more"]
    known = _known_keys(con, increment)
    assert {module for module, _ in known.courses} == {"M1", "M-b-full", "M-c-more", "M-d-more"}
    assert known.courses["M1", "2025J"] == date(2025, 10, 6)
    assert {pseudonym for *_, pseudonym in known.enrollments} == {"s-b-full", "s-c-more", "s-d-more"}


def test_an_increment_without_a_full_delivery_before_it_is_refused(con: duckdb.DuckDBPyConnection) -> None:
    _land(con, _delivery("more", 1, "increment"))
    _land(con, _delivery("bad", 1), is_accepted=False)
    _land(con, _delivery("other", 1, source="synthetic"))
    _land(con, _delivery("later", 3))
    with pytest.raises(dg.Failure) as refused:
        _known_keys(con, _delivery("this", 2, "increment"))
    assert refused.value.description == (
        "the increment of 2026-05-02 has no accepted full delivery of source oulad before it; "
        "land a full one of an earlier day first."
    )

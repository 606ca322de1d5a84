"""What a delivery is held against when it lands: the courses of other sources, its own bytes, a base of an increment's."""

from collections.abc import Iterator
from datetime import date

import dagster as dg
import duckdb
import pytest

from iom_platform.extract.source import Delivery, Scope
from iom_platform.flow.extract import (
    _find_no_base,
    _refuse_foreign_courses,
    refuse_other_declaration,
)
from iom_platform.storage.duckdb_session import DuckdbSession
from iom_platform.storage.session import Session
from iom_platform.storage.warehouse import prepare_warehouse


@pytest.fixture
def con() -> Iterator[Session]:
    with duckdb.connect() as connection:
        con = DuckdbSession(connection)
        prepare_warehouse(con)
        yield con


def _delivery(name: str, day: int, scope: Scope = "full", source: str = "oulad") -> Delivery:
    return Delivery(source, name, name, date(2026, 5, day), scope, (), (), ())


def _land(con: Session, delivery: Delivery, *, is_accepted: bool = True) -> Delivery:
    """The delivery with the course M1-2025J."""
    d = delivery
    con.execute(
        "insert into raw.deliveries values (?, ?, ?, ?, ?, ?, now()::timestamp)",
        [d.delivery_id, d.source, d.delivered_on, d.scope, d.sha256, is_accepted],
    )
    con.execute(
        "insert into raw.oulad_courses values (?, ?, 'courses.csv', 1, 'M1', '2025J', 240, null)",
        [d.source, d.delivery_id],
    )
    return delivery


def test_only_an_accepted_delivery_claims_a_course(con: Session) -> None:
    _land(con, _delivery("typo", 1, source="synthetic"), is_accepted=False)
    ours = _land(con, _delivery("ours", 2), is_accepted=False)
    _refuse_foreign_courses(con, ours)
    con.execute("update raw.deliveries set is_accepted = true where delivery_id = 'typo'")
    with pytest.raises(dg.Failure) as refused:
        _refuse_foreign_courses(con, ours)
    assert "course M1-2025J was delivered by source synthetic before" in str(refused.value.description)


def test_the_same_bytes_may_not_declare_another_day_or_scope(con: Session) -> None:
    assert not refuse_other_declaration(con, _delivery("a", 1))
    _land(con, _delivery("a", 1))
    assert refuse_other_declaration(con, _delivery("a", 1))
    for other, declared in (
        (_delivery("a", 2), "2026-05-02 and full"),
        (_delivery("a", 1, "increment"), "2026-05-01 and increment"),
    ):
        with pytest.raises(dg.Failure) as refused:
            refuse_other_declaration(con, other)
        assert refused.value.description == (
            "these bytes have landed before with delivered_on 2026-05-01 and scope full, and now declare "
            f"{declared}; declare them as before, or deliver other files."
        )


def test_an_increment_is_told_that_it_adds_to_nothing_yet(con: Session) -> None:
    _land(con, _delivery("more", 1, "increment"))
    _land(con, _delivery("bad", 1), is_accepted=False)
    _land(con, _delivery("other", 1, source="synthetic"))
    _land(con, _delivery("b-full", 3))
    said = (
        "the increment of 2026-05-02 has no accepted full delivery of source oulad before it; "
        "it takes effect once a full delivery of an earlier day has landed"
    )
    assert _find_no_base(con, _delivery("c", 2, "increment")) == said
    assert _find_no_base(con, _delivery("a", 3, "increment")) == said.replace("05-02", "05-03")
    assert _find_no_base(con, _delivery("c", 3, "increment")) is None
    assert _find_no_base(con, _delivery("a", 4, "increment")) is None
    assert _find_no_base(con, _delivery("a", 1)) is None, "a full delivery needs none"

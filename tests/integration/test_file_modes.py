"""What the platform writes is closed to other users of the machine."""

import os
from datetime import datetime
from pathlib import Path

import pytest

from tests.spine import Spine, spine_at


def test_a_home_that_others_could_enter_is_closed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    with spine_at(home):
        assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["students.csv", "students.parquet"])
def test_an_export_is_the_users_alone(tmp_path: Path, name: str) -> None:
    with spine_at(tmp_path / "home") as spine:
        _promote_something(spine)
        before = os.umask(0o022)
        try:
            done = spine.iom("export", "clustering/promotions", "--out", str(tmp_path / name))
        finally:
            os.umask(before)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).stat().st_mode & 0o077 == 0


def _promote_something(spine: Spine) -> None:
    from iom_platform.storage.promotions import save_promotion
    from iom_platform.storage.record import open_record
    from tests.plants import valid_frame

    with open_record(spine.settings) as conn:
        row = valid_frame("clustering/promotions", 1).to_dict("records")[0]
        save_promotion(conn, {**row, "promoted_at": datetime(2026, 1, 1), "withdrawn_because": None})

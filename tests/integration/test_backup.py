"""A backup, a home that is lost, a restore, and a run: every table as if nothing had happened, on either engine."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date, timedelta
from pathlib import Path

import psycopg2
import pytest

from iom_platform.cli.backups import back_up, restore
from iom_platform.extract.synthetic import write_twin
from iom_platform.settings import SettingsError
from iom_platform.storage import record
from iom_platform.storage.access import READER
from iom_platform.storage.backup import MANIFEST, BackupRefused
from iom_platform.storage.postgres_server import ensure_server, stop_server
from tests.spine import Spine, spine_at, succeed

LAYOUT = date(2025, 3, 1)
DELIVERED = LAYOUT + timedelta(days=30)
EARLY, LATE = LAYOUT - timedelta(days=14), LAYOUT + timedelta(days=20)


class Kept:
    """A home of an engine with one scored day, its backup, and a second day that was scored afterward."""

    def __init__(self, spine: Spine, folder: Path) -> None:
        self.spine, self.folder = spine, folder
        succeed(spine.land(folder / "twin", DELIVERED))
        succeed(spine.score(EARLY))
        self.before = spine.hashes()
        back_up(folder / "backup")
        succeed(spine.score(LATE))
        self.after = spine.hashes()

    def lose_home(self) -> None:
        """All but the pseudonym key, which is kept elsewhere."""
        home = self.spine.settings.home
        stop_server(self.spine.settings)
        for path in home.iterdir():
            if path != self.spine.settings.key_path:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module", params=["duckdb", "postgres"])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    folder = tmp_path_factory.mktemp("backup")
    write_twin(folder / "twin", students=150, seed=11, through=DELIVERED, layout_day=LAYOUT)
    with spine_at(folder / "home", IOM_ENGINE=request.param) as spine:
        yield Kept(spine, folder)


def test_a_lost_home_is_restored_and_goes_on_to_the_same_hashes(kept: Kept) -> None:
    kept.lose_home()
    restore(kept.folder / "backup", replace=False)
    assert kept.spine.hashes() == kept.before
    identities = "select count(*) from identity.students"
    with record.open_record(kept.spine.settings) as conn, conn.cursor() as cursor:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(identities)
        conn.rollback()
        cursor.execute(f"set local role {READER}")
        cursor.execute(identities)
        assert cursor.fetchone() == (150,)
    succeed(kept.spine.land(kept.folder / "twin", DELIVERED))
    succeed(kept.spine.score(LATE))
    assert kept.spine.hashes() == kept.after


def test_a_backup_holds_no_key_and_is_its_users_alone(kept: Kept) -> None:
    key = kept.spine.settings.key_path.read_text().strip()
    files = [p for p in (kept.folder / "backup").rglob("*") if p.is_file()]
    assert len(files) > 5
    assert not any(key.encode() in p.read_bytes() or bytes.fromhex(key) in p.read_bytes() for p in files)
    assert (kept.folder / "backup").stat().st_mode & 0o077 == 0


@contextmanager
def _damaged(kept: Kept, name: str) -> Iterator[Path]:
    copy = kept.folder / "damaged"
    shutil.copytree(kept.folder / "backup", copy)
    yield copy / name
    shutil.rmtree(copy)


def test_what_cannot_be_restored_is_refused_and_nothing_changes(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    before = kept.spine.hashes()
    with pytest.raises(BackupRefused, match="holds rows already; name an empty one in IOM_HOME, or say --replace"):
        restore(kept.folder / "backup", replace=False)
    with pytest.raises(BackupRefused, match="holds no manifest"):
        restore(kept.folder, replace=True)
    with _damaged(kept, "iom.dump") as file:
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(BackupRefused, match="dump is damaged"):
            restore(file.parent, replace=True)
        file.unlink()
        with pytest.raises(BackupRefused, match="dump is missing"):
            restore(file.parent, replace=True)
    with _damaged(kept, MANIFEST) as file:
        manifest = json.loads(file.read_text())
        for change, said in (({"format": 99}, "format 99"), ({"engine": "oracle"}, "set IOM_ENGINE=oracle")):
            file.write_text(json.dumps(manifest | change))
            with pytest.raises(BackupRefused, match=said):
                restore(file.parent, replace=True)
    with monkeypatch.context() as patch:
        patch.setenv("IOM_PSEUDONYM_KEY", "ab" * 32)
        with pytest.raises(BackupRefused, match="key of this home is not the backup's"):
            restore(kept.folder / "backup", replace=True)
    with (
        closing(psycopg2.connect(ensure_server(kept.spine.settings).url("mlflow"))),
        pytest.raises(BackupRefused, match=r"\d+ sessions are open in .*; stop the services"),
    ):
        restore(kept.folder / "backup", replace=True)
    with pytest.raises(BackupRefused, match="is there already"):
        back_up(kept.folder / "backup")
    assert kept.spine.hashes() == before


def test_a_run_under_way_is_not_torn_apart(kept: Kept) -> None:
    with closing(psycopg2.connect(ensure_server(kept.spine.settings).url("dagster"))) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("update runs set status = 'STARTED' where id = (select max(id) from runs)")
        with pytest.raises(BackupRefused, match="1 runs of Dagster are queued or under way"):
            back_up(kept.folder / "another")
        with connection, connection.cursor() as cursor:
            cursor.execute("update runs set status = 'SUCCESS' where status = 'STARTED'")
    assert not (kept.folder / "another").exists()
    assert not list(kept.folder.glob(".another*"))


def test_without_its_key_nothing_is_restored_and_none_is_made(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOM_HOME", str(tmp_path / "other"))
    with pytest.raises(SettingsError, match="is missing; put the one there"):
        restore(kept.folder / "backup", replace=False)
    assert not list((tmp_path / "other").iterdir())

"""`iom cluster --postgres` and `--mongo`: the rows that arrive are those of the file, however often and however broken off.

What the files hold is tested in test_cluster.py. MongoDB is nx-27017 here, which speaks its protocol over SQLite.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg2
import pytest

from iom_platform.settings import Settings
from iom_platform.storage import learner_mongo, learner_postgres
from iom_platform.storage.learner_mongo import MongoCollection, MongoFailed, MongoRefused
from iom_platform.storage.learner_postgres import PostgresFailed, PostgresRefused, PostgresTable
from iom_platform.storage.postgres_server import ServerError, ensure_server
from tests.performance.bench_clustering import write_learners

FEATURES = ["time_spent", "avg_score", "accuracy", "topic_progress"]
LEARNERS = 3000
SECRET = "top%20secret"
COLUMNS = {
    "learner_id": "text", **dict.fromkeys(FEATURES, "double precision"), "cluster_kmeans": "smallint",
    "cluster_gmm": "smallint", "gmm_confidence": "double precision",
}  # fmt: skip


def _cluster(file: Path, out: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "iom"), "cluster", str(file), "--out", str(out), *more]
    environment = {**os.environ, "IOM_HOME": str(out.parent / "no home"), **variables}
    return subprocess.run(
        [*command, "--features", ",".join(FEATURES)], capture_output=True, text=True, check=False, env=environment
    )


@pytest.fixture(scope="module")
def learners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of learners, among whose ids are some that CSV has to quote."""
    file = tmp_path_factory.mktemp("learners") / "learners.csv"
    write_learners(file, LEARNERS, seed=1)
    odd = ('a,b "c"', "\\.", "\\N", "NULL", "é\\t", "'; DROP TABLE x; --")
    table = pd.read_csv(file, dtype={"learner_id": str})
    table.loc[: len(odd) - 1, "learner_id"] = odd
    table.to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def made(learners: Path) -> Path:
    """The Parquet file of a run without upload."""
    done = _cluster(learners, learners.parent / "out", "--no-csv")
    assert done.returncode == 0, done.stderr
    return learners.parent / "out" / "learner_clusters.parquet"


def _part(made: Path, to: Path, rows: slice, **changed: Any) -> Path:
    """The file's rows, changed: columns keep their types."""
    table = pd.read_parquet(made)
    table[rows].assign(**changed).astype({name: kind for name, kind in table.dtypes.items()}).to_parquet(
        to, index=False
    )
    return to


# -- PostgreSQL ---------------------------------------------------------------------------------------


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    """A server of the user's, where nothing was uploaded before."""
    address = ensure_server(settings).url("iom")
    yield address
    _ask(address, "DROP SCHEMA IF EXISTS learners CASCADE")


def _ask(url: str, statement: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def _rows(url: str) -> pd.DataFrame:
    rows = _ask(url, f"SELECT {', '.join(COLUMNS)} FROM learners.learner_clusters")
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("learner_id", ignore_index=True)


def _assert_same(found: pd.DataFrame, file: Path) -> None:
    expected = pd.read_parquet(file).sort_values("learner_id", ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_exact=True)


@pytest.mark.parametrize("mode", ["replace", "upsert"])
def test_rows_of_the_table_equal_rows_of_the_file_after_two_uploads(
    learners: Path, tmp_path: Path, url: str, mode: str
) -> None:
    for _ in range(2):
        done = _cluster(learners, tmp_path / "out", "--postgres", mode, IOM_POSTGRES_URL=url)
        assert done.returncode == 0, done.stderr
        assert f"Uploaded: {LEARNERS:,} rows " in done.stdout
        _assert_same(_rows(url), tmp_path / "out" / "learner_clusters.parquet")
    assert not (tmp_path / "no home").exists()
    assert psycopg2.extensions.parse_dsn(url)["password"] not in done.stdout + done.stderr
    kinds = _ask(url, "SELECT attname, format_type(atttypid, NULL), attnotnull FROM pg_attribute "
                      "WHERE attrelid = 'learners.learner_clusters'::regclass AND attnum > 0")  # fmt: skip
    assert kinds == [(name, kind, True) for name, kind in COLUMNS.items()]
    keys = _ask(url, "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
                     "WHERE conrelid = 'learners.learner_clusters'::regclass AND contype = 'p'")  # fmt: skip
    assert keys == [("learner_clusters_pkey", "PRIMARY KEY (learner_id)")]


def test_an_upsert_changes_its_own_rows_and_leaves_those_of_others(made: Path, tmp_path: Path, url: str) -> None:
    first = _part(made, tmp_path / "first.parquet", slice(0, 2000))
    second = _part(made, tmp_path / "second.parquet", slice(1500, 3000), cluster_kmeans=2, gmm_confidence=0.5)
    table = PostgresTable(url, "upsert")
    assert "2,000 rows in place, 2,000 of them new or changed in learners.learner_clusters" in table.upload(first)
    assert "2,000 rows in place, 0 of them new or changed" in table.upload(first)
    assert "1,500 rows in place, 1,500 of them new or changed" in table.upload(second)
    found, whole = _rows(url), pd.concat([pd.read_parquet(first)[:1500], pd.read_parquet(second)])
    pd.testing.assert_frame_equal(
        found, whole.sort_values("learner_id", ignore_index=True), check_dtype=False, check_exact=True
    )
    # the other way leaves nobody else
    assert "1,500 rows written anew" in PostgresTable(url, "replace").upload(second)
    _assert_same(_rows(url), second)


def test_readers_see_the_old_rows_or_the_new(made: Path, tmp_path: Path, url: str) -> None:
    old = _part(made, tmp_path / "old.parquet", slice(0, 1000), cluster_kmeans=1)
    new = _part(made, tmp_path / "new.parquet", slice(0, 3000), cluster_kmeans=2)
    table = PostgresTable(url, "replace")
    table.upload(old)
    seen: set[tuple[Any, ...]] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                seen.update(
                    _ask(
                        url, "SELECT count(*), min(cluster_kmeans), max(cluster_kmeans) FROM learners.learner_clusters"
                    )
                )
            except psycopg2.Error as error:
                seen.add((type(error),))

    reader = threading.Thread(target=read)
    reader.start()
    for file in (new, old, new, old, new):
        table.upload(file)
    stop.set()
    reader.join()
    assert seen == {(1000, 1, 1), (3000, 2, 2)}


def test_who_may_read_the_table_may_read_the_next_one(made: Path, tmp_path: Path, url: str) -> None:
    table = PostgresTable(url, "replace")
    table.upload(made)
    _ask(url, "GRANT SELECT ON learners.learner_clusters TO PUBLIC")
    for _ in range(2):
        table.upload(made)
    rights = _ask(url, "SELECT privilege_type FROM information_schema.role_table_grants "
                       "WHERE table_schema = 'learners' AND grantee = 'PUBLIC'")  # fmt: skip
    assert rights == [("SELECT",)]


def test_a_table_with_row_security_is_not_replaced(made: Path, url: str) -> None:
    PostgresTable(url, "replace").upload(made)
    _ask(url, "ALTER TABLE learners.learner_clusters ENABLE ROW LEVEL SECURITY")
    with pytest.raises(PostgresFailed, match="has row security, which a new table would show to everybody"):
        PostgresTable(url, "replace").upload(made)
    assert "0 of them new or changed" in PostgresTable(url, "upsert").upload(made)


def test_a_failed_upload_leaves_the_table_and_the_files(learners: Path, made: Path, tmp_path: Path, url: str) -> None:
    PostgresTable(url, "replace").upload(_part(made, tmp_path / "few.parquet", slice(0, 10)))
    _ask(url, "CREATE VIEW learners.best AS SELECT * FROM learners.learner_clusters WHERE cluster_kmeans = 0")
    done = _cluster(learners, tmp_path / "out", "--postgres", "replace", IOM_POSTGRES_URL=url)
    assert done.returncode == 1
    assert "did not take the rows (views stand on learners.learner_clusters; drop them, or choose" in done.stderr
    assert "the files are finished" in done.stderr
    assert psycopg2.extensions.parse_dsn(url)["password"] not in done.stdout + done.stderr
    assert (tmp_path / "out" / "clustering_summary.json").exists()
    assert len(_rows(url)) == 10
    assert _ask(url, "SELECT to_regclass('learners.learner_clusters_staged') IS NULL") == [(True,)]
    assert "3,000 rows in place" in PostgresTable(url, "upsert").upload(made)


def test_a_lost_connection_is_told_and_one_upload_waits_for_another(made: Path, url: str) -> None:
    table = PostgresTable(url, "replace")
    table.upload(made)
    waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    other = psycopg2.connect(url)
    with contextlib.closing(other), ThreadPoolExecutor(1) as pool:
        other.cursor().execute("SELECT pg_advisory_lock(%s)", (learner_postgres._LOCK,))
        upload = pool.submit(table.upload, made)
        while not _ask(url, waiting):
            assert not upload.done(), upload.result()
        _ask(url, f"SELECT pg_terminate_backend(pid) FROM ({waiting}) AS w")
        with pytest.raises(PostgresFailed, match=r"did not take the rows \(.*connection.*run the command again"):
            upload.result()
    _assert_same(_rows(url), made)


def test_rows_that_do_not_arrive_are_missed(made: Path, url: str) -> None:
    PostgresTable(url, "upsert").upload(made)
    _ask(url, "CREATE FUNCTION learners.drop_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    _ask(url, "TRUNCATE learners.learner_clusters")
    _ask(url, "CREATE TRIGGER lost BEFORE INSERT ON learners.learner_clusters FOR EACH ROW WHEN (NEW.learner_id = 'NULL') "
              "EXECUTE FUNCTION learners.drop_row()")  # fmt: skip
    with pytest.raises(PostgresFailed, match=r"2,999 of 3,000 rows arrived in learners.learner_clusters; nothing was"):
        PostgresTable(url, "upsert").upload(made)
    assert len(_rows(url)) == 0


def test_an_upsert_refuses_a_table_of_other_columns(made: Path, tmp_path: Path, url: str) -> None:
    PostgresTable(url, "upsert").upload(_part(made, tmp_path / "more.parquet", slice(0, 10), cluster_ward=1.5))
    with pytest.raises(PostgresFailed, match=r"has other columns than the result \(cluster_ward\).*--postgres replace"):
        PostgresTable(url, "upsert").upload(made)
    assert len(_rows(url)) == 10


def test_a_role_without_rights_is_told_what_it_lacks(made: Path, url: str) -> None:
    _ask(url, "CREATE SCHEMA learners")
    _ask(url, "CREATE TABLE learners.learner_clusters (learner_id text)")
    _ask(
        url,
        "REVOKE ALL ON learners.learner_clusters FROM CURRENT_USER; REVOKE CREATE ON SCHEMA learners FROM CURRENT_USER",
    )
    with pytest.raises(
        PostgresFailed, match=r"role 'iom' must be allowed to create schema learners .*the files are finished"
    ):
        PostgresTable(url, "replace").upload(made)


def test_a_schema_that_an_administrator_made_is_enough(made: Path, url: str) -> None:
    _ask(url, "CREATE SCHEMA learners")
    _ask(url, "REVOKE CREATE ON DATABASE iom FROM CURRENT_USER")
    try:
        assert "3,000 rows written anew" in PostgresTable(url, "replace").upload(made)
    finally:
        _ask(url, "GRANT CREATE ON DATABASE iom TO CURRENT_USER")


def test_without_a_server_of_the_users_nothing_is_read(learners: Path, tmp_path: Path) -> None:
    done = _cluster(tmp_path / "none.csv", tmp_path / "out", "--postgres", "replace")
    assert (done.returncode, "set IOM_POSTGRES_URL to postgresql://" in done.stderr) == (2, True), done.stderr
    away = f"postgresql://u:{SECRET}@127.0.0.1:{_free_port()}/iom"
    done = _cluster(learners, tmp_path / "out", "--postgres", "upsert", IOM_POSTGRES_URL=away)
    assert (done.returncode, "does not let us in" in done.stderr) == (1, True), done.stderr
    assert "secret" not in done.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / "no home").exists()
    with pytest.raises(PostgresRefused, match="longer than PostgreSQL's 63 bytes"):
        PostgresTable(away, "replace").check(["é" * 32])
    with pytest.raises(ServerError, match="does not let us in"):
        PostgresTable(away, "replace").check(["é" * 31])


# -- MongoDB ------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server of MongoDB's protocol on loopback."""
    command = shutil.which("nx-27017", path=str(Path(sys.executable).parent))
    assert command, "nx-27017 of the wheel neosqlite[nx27017], which stands in for MongoDB, comes with the lock"
    folder, port = tmp_path_factory.mktemp("mongo"), _free_port()
    files = ["--log-file", str(folder / "log"), "--pid-file", str(folder / "pid")]
    server = subprocess.Popen(
        [command, "--db", str(folder / "db"), "-p", str(port), *files], cwd=folder, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, "nx-27017 ended at its start"
            time.sleep(0.1)
        yield f"mongodb://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def documents(mongo: str) -> Iterator[Any]:
    """The collection iom.learners, empty."""
    from pymongo import MongoClient

    with MongoClient(mongo) as client:  # type: ignore[var-annotated]
        client["iom"]["learners"].drop()
        yield client["iom"]["learners"]


def _to_mongo(url: str) -> tuple[str, ...]:
    return ("--mongo", url, "--db", "iom", "--collection", "learners")


def test_an_aggregation_over_the_documents_says_what_the_file_says(
    learners: Path, tmp_path: Path, mongo: str, documents: Any
) -> None:
    done = _cluster(learners, tmp_path / "out", "--no-csv", *_to_mongo(mongo))
    assert done.returncode == 0, done.stderr
    assert f"Uploaded: {LEARNERS:,} documents in iom.learners, 0 of them from before" in done.stdout
    rows = pd.read_parquet(tmp_path / "out" / "learner_clusters.parquet")
    groups = documents.aggregate(
        [{"$group": {"_id": "$cluster_kmeans", "n": {"$sum": 1}, "avg": {"$avg": "$avg_score"}}}]
    )
    found = {one["_id"]: (one["n"], one["avg"]) for one in groups}
    expected = rows.groupby("cluster_kmeans").avg_score.agg(["size", "mean"])
    assert found == {c: (row["size"], pytest.approx(row["mean"])) for c, row in expected.iterrows()}
    there = pd.DataFrame(documents.find({}, {"iom_run": 0})).rename(columns={"_id": "learner_id"})
    pd.testing.assert_frame_equal(
        there[list(rows)].sort_values("learner_id", ignore_index=True),
        rows.sort_values("learner_id", ignore_index=True), check_dtype=False, check_exact=True,
    )  # fmt: skip
    assert not (tmp_path / "no home").exists()


def test_an_export_that_was_broken_off_is_completed_without_duplicates(
    made: Path, mongo: str, documents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_mongo, "_BATCH_ROWS", 700)
    export, write, written = MongoCollection(mongo, "iom", "learners"), learner_mongo._write, []

    def break_off(*given: Any, **more: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write(*given, **more))

    monkeypatch.setattr(learner_mongo, "_write", break_off)
    with pytest.raises(KeyboardInterrupt):
        export.upload(made)
    assert documents.count_documents({}) == 1400
    monkeypatch.setattr(learner_mongo, "_write", write)
    ids = pd.read_parquet(made).learner_id
    # a part of a batch can be missing too, and a learner of another run be there
    documents.delete_many({"_id": {"$in": ids[100:300].tolist()}})
    documents.insert_one({"_id": ids[2000], "cluster_kmeans": 9})
    assert "3,000 documents in iom.learners, 1,200 of them from before" in export.upload(made)
    assert documents.count_documents({}) == LEARNERS
    assert documents.count_documents({"cluster_kmeans": 9}) == 0
    sent = _commands_of(mongo, monkeypatch)
    assert "3,000 of them from before" in export.upload(made)
    assert "update" not in sent


def _commands_of(mongo: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the commands that are sent from now on."""
    import pymongo
    from pymongo.monitoring import CommandListener

    names: list[str] = []

    class Listener(CommandListener):
        def started(self, event: Any) -> None:
            names.append(event.command_name)

        def succeeded(self, event: Any) -> None: ...

        def failed(self, event: Any) -> None: ...

    client = pymongo.MongoClient
    monkeypatch.setattr(pymongo, "MongoClient", lambda url, **more: client(url, event_listeners=[Listener()], **more))
    return names


def test_another_run_replaces_what_the_first_said(made: Path, tmp_path: Path, mongo: str, documents: Any) -> None:
    export = MongoCollection(mongo, "iom", "learners")
    export.upload(made)
    other = _part(made, tmp_path / "other.parquet", slice(0, 500), cluster_kmeans=7)
    assert "500 documents in iom.learners, 0 of them from before" in export.upload(other)
    assert documents.count_documents({}) == LEARNERS
    assert documents.count_documents({"cluster_kmeans": 7}) == 500


def test_documents_that_do_not_arrive_are_missed(
    made: Path, mongo: str, documents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymongo.collection import Collection

    bulk_write = Collection.bulk_write
    monkeypatch.setattr(Collection, "bulk_write", lambda self, some, **more: bulk_write(self, some[1:], **more))
    with pytest.raises(MongoFailed, match=r"2,999 of 3,000 documents stand in iom.learners; the files are finished"):
        MongoCollection(mongo, "iom", "learners").upload(made)


def test_no_error_of_the_driver_shows_a_password_or_an_id(
    learners: Path, made: Path, tmp_path: Path, mongo: str, documents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymongo.collection import Collection
    from pymongo.errors import BulkWriteError

    def refuse(*given: Any, **more: Any) -> None:
        raise BulkWriteError({"writeErrors": [{"op": {"_id": "some-id"}, "errmsg": "some-id"}]})

    monkeypatch.setattr(learner_mongo, "_WAIT_MS", 300)
    away = MongoCollection(f"mongodb://u:{SECRET}@127.0.0.1:{_free_port()}/", "iom", "learners")
    with pytest.raises(MongoFailed, match="the server of --mongo does not answer") as refusal:
        away.check(FEATURES)
    assert "secret" not in f"{refusal.value} {away!r}" and refusal.value.__suppress_context__
    monkeypatch.setattr(Collection, "bulk_write", refuse)
    with pytest.raises(MongoFailed, match=r"MongoDB refused to write to iom.learners \(code 65\)") as refusal:
        MongoCollection(mongo, "iom", "learners").upload(made)
    assert "some-id" not in str(refusal.value) and refusal.value.__suppress_context__
    for wrong in (f"http://u:{SECRET}@h/", f"mongodb://u:{SECRET}@h:port/", f"mongodb://u:@{SECRET}@h/", SECRET):
        done = _cluster(learners, tmp_path / "out", *_to_mongo(wrong))
        assert (done.returncode, "the URL of --mongo cannot be read" in done.stderr) == (2, True), done.stderr
        assert "secret" not in done.stderr + done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["_id", "iom_run", "$set", "a.b"])
def test_a_feature_that_is_no_field_is_refused(mongo: str, name: str) -> None:
    with pytest.raises(MongoRefused, match="cannot be a field of a MongoDB document; rename it"):
        MongoCollection(mongo, "iom", "learners").check([name])


@pytest.mark.parametrize(("database", "collection"), [("a b", "learners"), ("iom", "$x"), ("iom", "..")])
def test_a_name_that_mongo_does_not_take_is_refused(mongo: str, database: str, collection: str) -> None:
    with pytest.raises(MongoRefused, match="is no name of a database and a collection"):
        MongoCollection(mongo, database, collection).check(FEATURES)


def test_options_of_mongo_go_together(learners: Path, tmp_path: Path) -> None:
    for some in (("--mongo", "mongodb://h/"), ("--db", "iom"), ("--mongo", "mongodb://h/", "--db", "iom")):
        done = _cluster(learners, tmp_path / "out", *some)
        assert (done.returncode, "--mongo, --db and --collection go together" in done.stderr) == (2, True), done.stderr

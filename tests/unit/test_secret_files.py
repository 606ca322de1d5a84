"""Secrets in files: a missing, open, weak or default one is refused in one sentence that holds no part of it."""

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from iom_platform.cli.deployment import SecretsRefused, check_secrets
from iom_platform.extract.pseudonym_key import load_key
from iom_platform.secret_files import SecretRefused, check_htpasswd, read_secret
from iom_platform.settings import Settings, SettingsError, load_settings

GOOD = secrets.token_hex(32)
# of `openssl passwd -6` and of bcrypt with cost 10, of a password that nobody tries first
SHA512 = "$6$Q2a7Zr0yN1bVwX3k$Nat9g9RrTJ1YzWnO4ydANIR5gwRjuBU8nkD6TKEDQLPdcK4LgPT6ksGYZKwUxBrIYrMWcVqTXYt.bCl1x7Wsm1"


def _file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


def _folder(tmp_path: Path, **texts: str | None) -> Path:
    """A folder of good secrets, but for those that are given; None leaves one out."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    good = {"postgres_password": GOOD, "pseudonym_key": secrets.token_hex(32), "gateway_htpasswd": f"ada:{SHA512}\n"}
    for name, text in {**good, **texts}.items():
        if text is not None:
            _file(folder / name, text)
    return folder


def test_good_secrets_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_secrets(_folder(tmp_path))
    assert capsys.readouterr().out == "The secrets are there, private, and no defaults.\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("postgres_password", None, "should be in {path}, which is missing; make one with `openssl rand -hex 32`"),
        ("postgres_password", "", "in {path} is empty; make one"),
        ("postgres_password", " \n", "in {path} is empty; make one"),
        ("postgres_password", "hunter2", "in {path} is shorter than 32 characters; make one"),
        ("postgres_password", GOOD[:31], "in {path} is shorter than 32 characters; make one"),
        ("postgres_password", f"changeme-{GOOD}", "in {path} is a default or an example; make one"),
        ("postgres_password", "ab" * 20, "in {path} is a default or an example; make one"),
        ("postgres_password", f"{GOOD}\n{GOOD}", "in {path} is more than one word; make one"),
        ("pseudonym_key", None, "should be in {path}, which is missing; restore it from a backup"),
        ("pseudonym_key", "", "in {path} is empty; restore it from a backup"),
        ("pseudonym_key", GOOD[:40], "in {path} is no line of 64 hexadecimal digits; restore"),
        ("pseudonym_key", f"{GOOD[:60]}xyzw", "in {path} is no line of 64 hexadecimal digits; restore"),
        ("pseudonym_key", "0123456789abcdef" * 4, "in {path} is a default or an example; restore"),
        ("gateway_htpasswd", None, "should be in {path}, which is missing; write lines NAME:HASH"),
        ("gateway_htpasswd", "# nobody yet\n", "in {path} is empty; write lines NAME:HASH"),
        (
            "gateway_htpasswd",
            "ada:plain-password\n",
            "line 1 of the gateway's list of users in {path} holds no SHA-512",
        ),
        ("gateway_htpasswd", "ada:$apr1$ab12cd34$Jh1XQnN0K6Zl0m3V2XyNf/\n", "holds no SHA-512 or bcrypt hash"),
        ("gateway_htpasswd", "ada:$2y$04$" + "a" * 53, "holds no SHA-512 or bcrypt hash"),
        (
            "gateway_htpasswd",
            f"ada:{SHA512}\n\n:{SHA512}\n",
            "line 3 of the gateway's list of users in {path} holds no",
        ),
    ],
)
def test_a_bad_secret_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str | None, said: str
) -> None:
    folder = _folder(tmp_path, **{name: text})
    with pytest.raises(SecretsRefused, match="nothing is started with these secrets"):
        check_secrets(folder)
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence.startswith("REFUSED: ") and said.format(path=folder / name) in sentence
    if text and text.strip():
        assert text.strip() not in sentence


@pytest.mark.parametrize("name", ["postgres_password", "pseudonym_key", "gateway_htpasswd"])
def test_a_secret_that_others_can_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = _folder(tmp_path)
    (folder / name).chmod(0o640)
    with pytest.raises(SecretsRefused):
        check_secrets(folder)
    assert f"can be read by other users; run `chmod 600 {folder / name}`" in capsys.readouterr().err


def test_all_bad_secrets_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SecretsRefused):
        check_secrets(tmp_path / "nowhere")
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize(("name", "password"), [("ada", "ada"), ("ada", "changeme"), ("Ada", "ada"), ("ada", "")])
def test_a_password_that_everybody_tries_is_refused(
    tmp_path: Path, hash_of: Callable[[str], str], name: str, password: str
) -> None:
    path = _file(tmp_path / "htpasswd", f"{name}:{hash_of(password)}\n")
    with pytest.raises(SecretRefused, match=r"line 1 of .* is of a password that everybody tries"):
        check_htpasswd(path)
    check_htpasswd(_file(tmp_path / "good", f"{name}:{hash_of(secrets.token_urlsafe())}\n"))


def test_a_password_in_a_file_goes_into_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path / "password", f"{GOOD[:40]}/@:%\n")
    monkeypatch.setenv("IOM_POSTGRES_PASSWORD_FILE", str(path))
    monkeypatch.setenv("IOM_POSTGRES_URL", "postgresql://iom@db:5432/postgres?sslmode=require")
    settings = load_settings()
    assert settings.postgres_url == f"postgresql://iom:{GOOD[:40]}%2F%40%3A%25@db:5432/postgres?sslmode=require"
    assert GOOD[:40] not in repr(settings)
    for url in (None, "postgresql://db/postgres", "postgresql://iom:another@db/postgres"):
        if url is None:
            monkeypatch.delenv("IOM_POSTGRES_URL")
        else:
            monkeypatch.setenv("IOM_POSTGRES_URL", url)
        with pytest.raises(
            SettingsError, match=r"^postgres_password_file needs a postgres_url with a user and no password"
        ):
            load_settings()
    monkeypatch.setenv("IOM_POSTGRES_URL", "postgresql://iom@db:5432/postgres")
    path.write_text("")
    with pytest.raises(SecretRefused, match=r"the PostgreSQL password in .* is empty"):
        load_settings()


def test_the_key_of_a_file_that_is_named_is_never_made_anew(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, pseudonym_key_file=tmp_path / "key")
    with pytest.raises(SecretRefused, match=r"which is missing; restore it from a backup"):
        load_key(settings)
    assert list(tmp_path.iterdir()) == []
    _file(tmp_path / "key", f"{GOOD}\n")
    assert load_key(settings) == bytes.fromhex(GOOD)
    assert read_secret(tmp_path / "key", "the key") == GOOD


def test_a_deployment_has_a_plain_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().deployment == "local"
    assert load_settings().is_automatic
    monkeypatch.setenv("IOM_POSTGRES_URL", "postgresql://iom@db:5432/postgres")
    assert not load_settings().is_automatic  # a server of others, and nobody said which deployment this is
    monkeypatch.setenv("IOM_DEPLOYMENT", "production")
    assert load_settings().is_automatic
    monkeypatch.setenv("IOM_DEPLOYMENT", "My Laptop")
    with pytest.raises(SettingsError, match=r"^setting deployment: "):
        load_settings()


@pytest.fixture(scope="session")
def hash_of() -> Callable[[str], str]:
    """SHA-512 as `openssl passwd -6` makes it, by the same libcrypt that nginx asks."""
    import ctypes

    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype, crypt.argtypes = ctypes.c_char_p, (ctypes.c_char_p, ctypes.c_char_p)
    return lambda password: str(crypt(password.encode(), f"$6${secrets.token_hex(8)}$".encode()).decode())

"""Pseudonyms: what they are, that they are keyed, and where the key comes from."""

import base64
import hashlib
import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom_platform.extract.pseudonym_key import load_key
from iom_platform.privacy import pseudonyms
from iom_platform.privacy.pseudonyms import pseudonymize
from iom_platform.settings import Settings, SettingsError

KEY = bytes(range(32))


def _define(key: bytes, source: str, student_id: str) -> str:
    """The definition, written out."""
    digest = hmac.new(key, f"{source}:{student_id}".encode(), hashlib.sha256).digest()
    return base64.b32encode(digest[:10]).decode().lower()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64), max_size=20))
def test_a_pseudonym_follows_its_definition(student_ids: list[str]) -> None:
    assert pseudonymize(KEY, "oulad", student_ids) == [_define(KEY, "oulad", one) for one in student_ids]


def test_a_known_value_never_changes() -> None:
    assert pseudonymize(KEY, "oulad", ["11391"]) == [_define(KEY, "oulad", "11391")] == ["aue67okhm2wvl3tp"]


def test_more_ids_than_a_chunk_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [str(i) for i in range(25)]
    whole = pseudonymize(KEY, "oulad", ids)
    monkeypatch.setattr(pseudonyms, "_CHUNK", 7)
    assert pseudonymize(KEY, "oulad", ids) == whole
    assert len(set(whole)) == 25


def test_key_source_and_exact_text_all_count() -> None:
    names = {
        *pseudonymize(KEY, "oulad", ["11391", "011391"]),
        *pseudonymize(KEY, "synthetic", ["11391"]),
        *pseudonymize(KEY[::-1], "oulad", ["11391"]),
    }
    assert len(names) == 4
    assert all(len(name) == 16 and set(name) <= set("abcdefghijklmnopqrstuvwxyz234567") for name in names)


def test_a_short_key_or_a_source_with_a_colon_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        pseudonymize(KEY[:31], "oulad", ["1"])
    with pytest.raises(ValueError, match="no colon"):
        pseudonymize(KEY, "a:b", ["1"])


def _settings(home: Path, key: str | None = None) -> Settings:
    return Settings(home=home, pseudonym_key=key)


def test_the_first_use_makes_a_key_that_only_its_user_reads(tmp_path: Path) -> None:
    settings = _settings(tmp_path / "new" / "home")
    key = load_key(settings)
    assert len(key) == 32
    assert stat.S_IMODE(settings.key_path.stat().st_mode) == 0o600
    assert load_key(settings) == key
    assert [p.name for p in settings.home.iterdir()] == ["pseudonym.key"]


def test_two_homes_have_two_keys(tmp_path: Path) -> None:
    assert load_key(_settings(tmp_path / "a")) != load_key(_settings(tmp_path / "b"))


def test_first_uses_at_once_share_one_key(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load_key(settings), range(32)))
    assert len(keys) == 1


def test_the_variable_replaces_the_file(tmp_path: Path) -> None:
    assert load_key(_settings(tmp_path, KEY.hex())) == KEY
    assert not (tmp_path / "pseudonym.key").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    settings = _settings(tmp_path)
    load_key(settings)
    settings.key_path.chmod(mode)
    with pytest.raises(SettingsError, match="chmod 600"):
        load_key(settings)


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, KEY[:31].hex(), "\u00e9" * 64])
def test_a_malformed_key_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    settings = _settings(tmp_path)
    settings.key_path.write_text(text, encoding="utf-8")
    settings.key_path.chmod(0o600)
    for one in (settings, _settings(tmp_path, text)):
        with pytest.raises(SettingsError) as caught:
            load_key(one)
        assert not text or text not in str(caught.value)
    assert settings.key_path.read_text(encoding="utf-8") == text

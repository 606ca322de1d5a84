"""Settings: one reader, the user's keys and values, an unknown key names the nearest one."""

from pathlib import Path

import pytest
import yaml

from iom_platform.settings import PROJECT_ROOT, Settings, SettingsError, load_settings

USERS_KEYS = {
    "clustering": {"algorithm": "kmeans", "n_clusters": 4, "max_iterations": 300},
    "privacy": {"anonymization": True, "differential_privacy": True, "epsilon": 0.1},
    "notifications": {"enabled": True, "notification_delay_hours": 24},
    "validation": {"min_silhouette_score": 0.5, "bootstrap_iterations": 100},
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [n for n in os.environ if n.startswith("IOM_")]:
        monkeypatch.delenv(name)


def _file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "iom.yaml").write_text(text)
    monkeypatch.setenv("IOM_SETTINGS", str(tmp_path / "iom.yaml"))


def test_iom_yaml_holds_the_users_keys_and_values() -> None:
    delivered = yaml.safe_load((PROJECT_ROOT / "iom.yaml").read_text())
    loaded = load_settings().model_dump()
    for section, values in USERS_KEYS.items():
        assert delivered[section] | values == delivered[section]
        assert loaded[section] | values == loaded[section]


def test_every_key_of_iom_yaml_is_a_setting_and_every_section_is_in_iom_yaml() -> None:
    delivered = yaml.safe_load((PROJECT_ROOT / "iom.yaml").read_text())
    settings = load_settings()
    for section, values in delivered.items():
        assert set(values) == set(type(getattr(settings, section)).model_fields)
    places = {"home", "postgres_url", "pseudonym_key", "as_of_on"}
    assert set(delivered) == set(Settings.model_fields) - places


def test_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _file(tmp_path, monkeypatch, "clustering: {n_clusters: 6}\n")
    assert load_settings().clustering.n_clusters == 6
    monkeypatch.setenv("IOM_CLUSTERING__N_CLUSTERS", "5")
    assert load_settings().clustering.n_clusters == 5


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("clustering: {n_cluster: 3}\n", "clustering.n_clusters"),
        ("privacy: {epsilonn: 3}\n", "privacy.epsilon"),
        ("clusterin: {n_clusters: 3}\n", "clustering"),
    ],
)
def test_unknown_key_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, nearest: str
) -> None:
    _file(tmp_path, monkeypatch, text)
    with pytest.raises(SettingsError, match=f"nearest known one is '{nearest}'"):
        load_settings()


def test_unknown_variable_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOM_PRIVACY__EPSILOM", "1")
    with pytest.raises(SettingsError, match="nearest known one is 'IOM_PRIVACY__EPSILON'"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("clustering: {n_clusters: many}\n", "clustering.n_clusters"),
        ("privacy: {anonymization: false}\n", "privacy.anonymization"),
        ("institution: {timezone: Mars/Olympus}\n", "institution.timezone"),
    ],
)
def test_wrong_value_names_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, where: str) -> None:
    _file(tmp_path, monkeypatch, text)
    with pytest.raises(SettingsError, match=where):
        load_settings()


def test_no_secret_in_an_error_or_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOM_POSTGRES_URL", "postgresql://u:topsecret@h/db")
    monkeypatch.setenv("IOM_PSEUDONYM_KEY", "aabbccdd")
    assert "topsecret" not in repr(load_settings())
    assert "aabbccdd" not in repr(load_settings())
    monkeypatch.setenv("IOM_CLUSTERING__N_CLUSTERS", "topsecret")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "topsecret" not in str(caught.value)


def test_what_is_accepted_and_not_built_is_said() -> None:
    said = " ".join(load_settings().not_in_force())
    for key in ("privacy.differential_privacy", "notifications.enabled", "validation.bootstrap_iterations"):
        assert key in said
    quiet = load_settings(
        privacy={"differential_privacy": False},
        notifications={"enabled": False},
        validation={"bootstrap_iterations": 0},
    )
    assert quiet.not_in_force() == ()

"""Settings: one reader, the user's keys and values, an unknown key names the nearest one."""

from pathlib import Path

import pytest
import yaml

from iom_platform.settings import (
    PROJECT_ROOT,
    Settings,
    SettingsError,
    environment_with,
    environment_without_secrets,
    load_settings,
)

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
    sections = {name: values for name, values in delivered.items() if isinstance(values, dict)}
    assert set(delivered) - set(sections) == {"engine"}
    for section, values in sections.items():
        assert set(values) == set(type(getattr(settings, section)).model_fields)
    places = {
        "home",
        "deployment",
        "postgres_url",
        "postgres_password_file",
        "pseudonym_key",
        "pseudonym_key_file",
        "as_of_on",
    }
    assert set(delivered) == set(Settings.model_fields) - places


def test_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _file(tmp_path, monkeypatch, "clustering: {n_clusters: 6}\n")
    assert load_settings().clustering.n_clusters == 6
    monkeypatch.setenv("IOM_CLUSTERING__N_CLUSTERS", "5")
    assert load_settings().clustering.n_clusters == 5


def test_candidates_are_a_list_in_the_file_and_a_line_in_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().clustering.candidates == ("kmeans", "gmm", "dbscan", "hdbscan", "hierarchical")
    _file(tmp_path, monkeypatch, "clustering: {candidates: [gmm, hdbscan]}\n")
    assert load_settings().clustering.candidates == ("gmm", "hdbscan")
    for text, names in (("kmeans, dbscan", ("kmeans", "dbscan")), ("gmm", ("gmm",)), ("", ())):
        monkeypatch.setenv("IOM_CLUSTERING__CANDIDATES", text)
        assert load_settings().clustering.candidates == names
    monkeypatch.setenv("IOM_CLUSTERING__N_CLUSTERS_RANGE", "2, 5")
    assert load_settings().clustering.n_clusters_range == (2, 5)
    monkeypatch.setenv("IOM_CLUSTERING__CANDIDATES", "gmm,kmean")
    known = "'kmeans', 'gmm', 'dbscan', 'hdbscan' or 'hierarchical'"
    with pytest.raises(SettingsError, match=rf"^setting clustering\.candidates\.1: Input should be {known}; mend it"):
        load_settings()


def test_weights_are_a_mapping_in_the_file_and_a_line_in_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().clustering.weights == {}
    _file(tmp_path, monkeypatch, "clustering: {weights: {score_pct_mean: 2}}\n")
    assert load_settings().clustering.weights == {"score_pct_mean": 2.0}
    for text, weights in (
        ("score_pct_mean=2, clicks_28d_to_peers=0.5", {"score_pct_mean": 2.0, "clicks_28d_to_peers": 0.5}),
        ("", {}),
    ):
        monkeypatch.setenv("IOM_CLUSTERING__WEIGHTS", text)
        assert load_settings().clustering.weights == weights
    for text, said in (
        ("score_mean=2", r"^setting clustering\.weights: 'score_mean' is no model input; the nearest is 'score_pct_mean'; m"),
        ("score_pct_mean", r"^setting clustering\.weights\.score_pct_mean: Input should be a valid number"),
        ("score_pct_mean=0", r"^setting clustering\.weights\.score_pct_mean: Input should be greater than or equal to 0\.01"),
    ):  # fmt: skip
        monkeypatch.setenv("IOM_CLUSTERING__WEIGHTS", text)
        with pytest.raises(SettingsError, match=said):
            load_settings()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("algorithm", "hdbscan", "hdbscan"),
        ("linkage", "average", "average"),
        ("eps", "0.25", 0.25),
        ("min_samples", "7", 7),
        ("min_cluster_size", "40", 40),
        ("scaling", "robust", "robust"),
        ("pca_components", "3", 3),
        ("pca_components", "0.9", 0.9),
    ],
)
def test_a_knob_of_an_algorithm_is_set_by_file_and_by_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    assert getattr(load_settings().clustering, name) != value
    _file(tmp_path, monkeypatch, f"clustering: {{{name}: {text}}}\n")
    assert getattr(load_settings().clustering, name) == value
    _file(tmp_path, monkeypatch, "")
    monkeypatch.setenv(f"IOM_CLUSTERING__{name.upper()}", text)
    assert getattr(load_settings().clustering, name) == value


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
        ("clustering: {algorithm: kmeens}\n", "clustering.algorithm: Input should be 'kmeans', 'gmm', 'dbscan'"),
        ("clustering: {candidates: [kmeens]}\n", "clustering.candidates.0: Input should be 'kmeans', 'gmm', 'dbscan'"),
        ("clustering: {candidates: 3}\n", "clustering.candidates"),
        ("clustering: {n_clusters_range: [5, 3]}\n", "clustering.n_clusters_range: 5 is more than 3; write the least"),
        ("clustering: {n_clusters_range: [1, 3]}\n", "clustering.n_clusters_range.0: Input should be greater"),
        (
            "clustering: {algorithm: auto, candidates: []}\n",
            "setting clustering: algorithm auto chooses among candidates",
        ),
        (
            "clustering: {algorithm: auto}\nvalidation: {bootstrap_iterations: 0}\n",
            "^settings: clustering.algorithm auto chooses by stability",
        ),
        ("clustering: {linkage: single}\n", "clustering.linkage: Input should be 'ward', 'average' or 'complete'"),
        ("clustering: {eps: 0}\n", "clustering.eps"),
        ("clustering: {eps: .nan}\n", "clustering.eps"),
        ("clustering: {min_samples: 1}\n", "clustering.min_samples"),
        ("clustering: {min_cluster_size: 4}\n", "clustering.min_cluster_size"),
        ("privacy: {anonymization: false}\n", "privacy.anonymization"),
        ("institution: {timezone: Mars/Olympus}\n", "institution.timezone"),
        ("risk: {high_share: 0.7, medium_share: 0.3}\n", "setting risk: high_share and medium_share leave nobody LOW"),
        ("warehouse: {memory_limit: plenty}\n", "setting warehouse.memory_limit: 'plenty' is no size"),
        ("warehouse: {memory_limit: 0GB}\n", "warehouse.memory_limit"),
        ("schedule: {nightly_cron: '30 23 * *'}\n", "schedule.nightly_cron: .* five fields"),
        ("schedule: {nightly_cron: '0 30 23 * * *'}\n", "schedule.nightly_cron: .* five fields"),
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
    for key in ("privacy.differential_privacy", "notifications.enabled"):
        assert key in said
    quiet = load_settings(
        privacy={"differential_privacy": False},
        notifications={"enabled": False},
    )
    assert quiet.not_in_force() == ()


@pytest.mark.parametrize("limit", ["512MB", "1GB", "1.5 GiB", "2tb"])
def test_a_size_is_a_memory_limit(limit: str) -> None:
    assert load_settings(warehouse={"memory_limit": limit}).warehouse.memory_limit == limit


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clustering: {n_clusters: 3\n", "iom.yaml, line 2 cannot be understood: expected"),
        ("- clustering\n", "holds no sections"),
        ("clustering\n", "holds no sections"),
        ("1: {n_clusters: 3}\n", "holds no sections"),
        (
            "risk: {high_share: 0.2}\nclustering: {}\nrisk: {}\n",
            "line 3 cannot be understood: key 'risk' stands there twice",
        ),
        ("clustering:\n  seed: 1\n  seed: 2\n", "line 3 cannot be understood: key 'seed' stands there twice"),
        ("institution: {first_as_of: 2013-02-30}\n", "iom.yaml cannot be understood: day"),
        ("? [a, b]\n: 1\n", "line 1 cannot be understood: found unhashable key"),
        ("clustering: \0\n", "cannot be understood: unacceptable character"),
        ("clustering: 3\n", "setting clustering: "),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    _file(tmp_path, monkeypatch, text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_an_empty_file_leaves_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _file(tmp_path, monkeypatch, "# nothing\n")
    assert load_settings().clustering.n_clusters == 4


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOM_SETTINGS", str(tmp_path / "nowhere.yaml"))
    with pytest.raises(SettingsError, match=r"IOM_SETTINGS names .*nowhere\.yaml, which does not exist"):
        load_settings()
    monkeypatch.setenv("IOM_SETTINGS", str(tmp_path))
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings()
    (tmp_path / "latin.yaml").write_bytes(b"# caf\xe9\n")
    monkeypatch.setenv("IOM_SETTINGS", str(tmp_path / "latin.yaml"))
    with pytest.raises(SettingsError, match="it is not UTF-8"):
        load_settings()


@pytest.mark.parametrize("value", ["{n_clusters: 3}", "[1]", "3", ""])
def test_a_section_variable_holds_a_json_object(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("IOM_CLUSTERING", value)
    with pytest.raises(SettingsError, match="variable IOM_CLUSTERING holds no JSON object"):
        load_settings()
    monkeypatch.setenv("IOM_CLUSTERING", '{"n_clusters": 3}')
    assert load_settings().clustering.n_clusters == 3


def test_a_subprocess_gets_no_secret_that_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOM_POSTGRES_URL", "postgresql://u:topsecret@h/db")
    monkeypatch.setenv("iom_pseudonym_key", "aabbccdd")
    given = environment_without_secrets(IOM_HOME="here")
    assert given["IOM_HOME"] == "here" and "PATH" in given
    assert not {"topsecret", "aabbccdd"} & set(" ".join(given.values()).replace(":", " ").replace("@", " ").split())
    assert environment_with()["IOM_POSTGRES_URL"] == "postgresql://u:topsecret@h/db"


def test_components_are_a_number_a_share_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _file(tmp_path, monkeypatch, "clustering: {pca_components: 2}\n")
    assert load_settings().clustering.pca_components == 2
    monkeypatch.setenv("IOM_CLUSTERING__PCA_COMPONENTS", "null")
    assert load_settings().clustering.pca_components is None
    for text in ("1.0", "8", "0", "nonsense", "true"):
        monkeypatch.setenv("IOM_CLUSTERING__PCA_COMPONENTS", text)
        with pytest.raises(
            SettingsError, match=f"pca_components: {text} is neither a number of components from 1 to 7"
        ):
            load_settings()
    monkeypatch.delenv("IOM_CLUSTERING__PCA_COMPONENTS")
    _file(tmp_path, monkeypatch, "clustering: {pca_components: yes}\n")
    with pytest.raises(SettingsError, match="True is neither a number of components"):
        load_settings()

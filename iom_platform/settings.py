"""The only reader of `iom.yaml` and of the environment: typed settings, places on disk, and what is in force.

Nothing here opens a database or starts a process.
"""

import difflib
import json
import os
import re
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from iom_platform.secret_files import read_secret
from iom_platform.tables import MODEL_INPUTS

PROJECT_ROOT = Path(__file__).resolve().parent.parent
_SIZE = re.compile(r"(?=.*[1-9])[0-9]+(\.[0-9]+)? ?[KMGT]i?B", re.IGNORECASE)
LOCAL = "local"  # the deployment that nobody named
_CRON = re.compile(r"[0-9A-Za-z*?/,#-]+( +[0-9A-Za-z*?/,#-]+){4}")


class SettingsError(ValueError):
    """A setting is wrong; the message is one sentence with its remedy."""

    exit_code = 3


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Algorithm = Literal["kmeans", "gmm", "dbscan", "hdbscan", "hierarchical"]
_Number = Annotated[int, Field(ge=2, le=50)]


class Clustering(_Section):
    algorithm: Literal["kmeans", "gmm", "dbscan", "hdbscan", "hierarchical", "auto"] = "kmeans"
    candidates: Annotated[tuple[Algorithm, ...], NoDecode] = get_args(Algorithm)
    n_clusters: _Number = 4
    n_clusters_range: Annotated[tuple[_Number, _Number], NoDecode] = (3, 6)
    max_iterations: int = Field(300, ge=1)
    seed: int = Field(20131216, ge=0, lt=2**32)
    linkage: Literal["ward", "average", "complete"] = "ward"
    eps: float | None = Field(None, gt=0, allow_inf_nan=False)
    min_samples: int = Field(10, ge=2)
    min_cluster_size: int = Field(15, ge=5)
    weights: Annotated[dict[str, Annotated[float, Field(ge=0.01, le=100)]], NoDecode] = {}
    scaling: Literal["range", "standard", "robust"] = "range"
    pca_components: int | float | None = None

    @field_validator("candidates", "n_clusters_range", mode="before")
    @classmethod
    def _items_may_stand_in_a_line(cls, value: Any) -> Any:
        """A variable holds them as `kmeans,gmm`."""
        return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value

    @field_validator("n_clusters_range")
    @classmethod
    def _least_comes_first(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] > value[1]:
            raise ValueError(f"{value[0]} is more than {value[1]}; write the least number of clusters first")
        return value

    @model_validator(mode="after")
    def _auto_has_a_choice(self) -> "Clustering":
        if self.algorithm == "auto" and not self.candidates:
            raise ValueError("algorithm auto chooses among candidates, which names none; name one, or an algorithm")
        return self

    @field_validator("weights", mode="before")
    @classmethod
    def _weights_may_stand_in_a_line(cls, value: Any) -> Any:
        """A variable holds them as `score_pct_mean=2,clicks_28d_to_peers=0.5`."""
        if not isinstance(value, str):
            return value
        pairs = (part.partition("=") for part in value.split(",") if part.strip())
        return {name.strip(): weight.strip() for name, _, weight in pairs}

    @field_validator("weights")
    @classmethod
    def _weights_are_of_inputs(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if name not in MODEL_INPUTS:
                near = difflib.get_close_matches(name, MODEL_INPUTS, n=1, cutoff=0.0)[0]
                raise ValueError(f"{name!r} is no model input; the nearest is {near!r}")
        return value

    @field_validator("pca_components", mode="before")
    @classmethod
    def _components_are_a_number_or_a_share(cls, value: Any) -> Any:
        """A variable holds a number as `3`, a share as `0.9`, and none as `null`."""
        if isinstance(value, str) and value.strip().lower() in ("", "null", "none"):
            return None
        found = value
        if isinstance(value, str):
            with suppress(ValueError):
                found = float(value) if "." in value else int(value)
        is_number = isinstance(found, int) and not isinstance(found, bool) and 1 <= found <= len(MODEL_INPUTS)
        if found is not None and not is_number and not (isinstance(found, float) and 0 < found < 1):
            raise ValueError(
                f"{value} is neither a number of components from 1 to {len(MODEL_INPUTS)}, nor a share of variance between 0 and 1"
            )
        return found

    @property
    def knobs(self) -> dict[str, Any]:
        """What is said to an algorithm; some holds for one alone."""
        return self.model_dump(exclude={"algorithm", "candidates", "n_clusters_range"})


class Privacy(_Section):
    anonymization: Literal[True] = True
    differential_privacy: bool = True
    epsilon: float = Field(0.1, gt=0)
    k: int = Field(5, ge=2)
    max_suppressed_share: float = Field(0.05, ge=0, le=1)


class Risk(_Section):
    high_share: float = Field(0.2, gt=0, lt=1)
    medium_share: float = Field(0.3, gt=0, lt=1)
    cluster_weight: float = Field(0.3, ge=0, le=1)

    @model_validator(mode="after")
    def _somebody_is_low(self) -> "Risk":
        if self.high_share + self.medium_share >= 1:
            raise ValueError("high_share and medium_share leave nobody LOW; choose them to add up to less than 1")
        return self


class Notifications(_Section):
    enabled: bool = True
    notification_delay_hours: int = Field(24, ge=0)


class Validation(_Section):
    min_silhouette_score: float = Field(0.5, ge=-1, le=1)
    bootstrap_iterations: int = Field(100, ge=0)
    min_stability: float = Field(0.3, ge=-1, le=1)
    stability_margin: float = Field(0.1, ge=0, le=1)
    min_jaccard: float = Field(0.6, ge=0, le=1)
    max_course_nmi: float = Field(0.5, ge=0, le=1)


class Institution(_Section):
    timezone: str = "UTC"
    first_as_of: date = date(2013, 1, 1)

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{value!r} is no IANA time zone; write one such as Europe/London") from error
        return value


class Schedule(_Section):
    nightly_cron: str = "30 23 * * *"

    @field_validator("nightly_cron")
    @classmethod
    def _cron_has_five_fields(cls, value: str) -> str:
        if not _CRON.fullmatch(value):
            raise ValueError(f"{value!r} is no cron expression of five fields; write one such as '30 23 * * *'")
        return value


class Warehouse(_Section):
    wait_seconds: int = Field(600, ge=0)
    memory_limit: str = "1GB"

    @field_validator("memory_limit")
    @classmethod
    def _limit_is_a_size(cls, value: str) -> str:
        if not _SIZE.fullmatch(value):
            raise ValueError(f"{value!r} is no size; write one such as 512MB or 1GB")
        return value


class _UniqueKeys(yaml.SafeLoader):
    """YAML whose mappings name each key once; PyYAML itself lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key.value!r} stands there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _read_file() -> dict[str, Any]:
    """What `iom.yaml`, or the file that IOM_SETTINGS names, holds; raises SettingsError."""
    named = os.environ.get("IOM_SETTINGS")
    path = Path(named or PROJECT_ROOT / "iom.yaml")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if not named:
            return {}
        raise SettingsError(f"IOM_SETTINGS names {path}, which does not exist; correct or unset it") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(
            f"the settings file {path} cannot be read ({reason}); mend it or unset IOM_SETTINGS"
        ) from None
    try:
        found = yaml.load(text, _UniqueKeys)
    except (yaml.YAMLError, ValueError) as error:  # a date that no calendar has is a ValueError
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise SettingsError(f"the settings file {path}{line} cannot be understood: {problem}; mend it there") from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise SettingsError(
            f"the settings file {path} holds no sections; write lines such as `clustering:` at its top level"
        )
    return found


class Settings(BaseSettings):
    """Everything that can be set; `load_settings` builds it."""

    model_config = SettingsConfigDict(
        env_prefix="IOM_", env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    home: Path = PROJECT_ROOT / ".iom"
    engine: Literal["duckdb", "postgres"] = "duckdb"
    deployment: str = Field(LOCAL, pattern=r"^[a-z][a-z0-9-]{0,30}$")
    postgres_url: str | None = Field(None, repr=False)
    postgres_password_file: Path | None = None
    pseudonym_key: str | None = Field(None, repr=False)
    pseudonym_key_file: Path | None = None
    as_of_on: date | None = None
    clustering: Clustering = Clustering()
    privacy: Privacy = Privacy()
    risk: Risk = Risk()
    notifications: Notifications = Notifications()
    validation: Validation = Validation()
    institution: Institution = Institution()
    schedule: Schedule = Schedule()
    warehouse: Warehouse = Warehouse()

    @model_validator(mode="after")
    def _auto_knows_stability(self) -> "Settings":
        if self.clustering.algorithm == "auto" and not self.validation.bootstrap_iterations:
            raise ValueError(
                "clustering.algorithm auto chooses by stability, and validation.bootstrap_iterations is 0; raise it, or name "
                "an algorithm"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, InitSettingsSource(settings_cls, _read_file())

    @property
    def warehouse_path(self) -> Path:
        return self.home / "warehouse.duckdb"

    @property
    def key_path(self) -> Path:
        return self.pseudonym_key_file or self.home / "pseudonym.key"

    @property
    def is_automatic(self) -> bool:
        """Whether schedules and sensors are on: at home, and where the environment names the deployment of a server."""
        return self.postgres_url is None or self.deployment != LOCAL

    @property
    def artifact_path(self) -> Path:
        return self.home / "mlflow"

    @property
    def reports_path(self) -> Path:
        return self.home / "reports"

    @property
    def dbt_path(self) -> Path:
        return self.home / "dbt"

    @property
    def dagster_path(self) -> Path:
        return self.home / "dagster"

    def not_in_force(self) -> tuple[str, ...]:
        """Settings that are accepted, but whose capability is not built yet; one sentence each."""
        found = []
        if self.privacy.differential_privacy:
            found.append(
                f"privacy.differential_privacy (epsilon {self.privacy.epsilon:g}): no release is differentially private yet"
            )
        if self.notifications.enabled:
            found.append("notifications.enabled: nobody is notified yet")
        return tuple(found)


# variables that belong to the platform but are no setting: set by `iom env` for other commands
_OTHER_VARIABLES = {"IOM_SETTINGS", "IOM_DAGSTER_POSTGRES_URL", "IOM_DAGSTER_DIR", "IOM_WAREHOUSE_PATH",
                    "IOM_CODE_HOST", "IOM_TEST_DATA", "IOM_PGHOST", "IOM_PGPORT", "IOM_PGUSER", "IOM_PGDATABASE"}  # fmt: skip


def _known_keys(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    return {
        name: f.annotation if isinstance(f.annotation, type) and issubclass(f.annotation, BaseModel) else None
        for name, f in model.model_fields.items()
    }


def _unknown(kind: str, name: str, known: list[str]) -> SettingsError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return SettingsError(
        f"unknown {kind} {name!r}; the nearest known one is {near[0]!r}" if near else f"unknown {kind} {name!r}"
    )


def _check_environment(environment: dict[str, str]) -> None:
    known = set(_OTHER_VARIABLES)
    for name, section in _known_keys(Settings).items():
        known.add(f"IOM_{name.upper()}")
        for key in section.model_fields if section else ():
            known.add(f"IOM_{name.upper()}__{key.upper()}")
    for name in environment:
        if name.upper().startswith("IOM_") and name.upper() not in known:
            raise _unknown("variable", name, sorted(known))
    for name, section in _known_keys(Settings).items():
        for variable, value in environment.items():
            if section and variable.upper() == f"IOM_{name.upper()}" and not _is_json_object(value):
                key = next(iter(section.model_fields))
                raise SettingsError(
                    f"variable {variable} holds no JSON object; write one, or set single keys such as {variable}__{key.upper()}"
                )


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def load_settings(**overrides: Any) -> Settings:
    """Settings from `iom.yaml` (or the file that IOM_SETTINGS names) and the environment.

    Raises SettingsError, whose message names the nearest known key or the rule that a value breaks.
    """
    _check_environment(dict(os.environ))
    try:
        return _with_password(Settings(**overrides))
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            model: type[BaseModel] = _known_keys(Settings).get(where[0]) or Settings
            known = list(model.model_fields) if len(where) > 1 else list(Settings.model_fields)
            raise _unknown("setting", ".".join(where), [".".join([*where[:-1], k]) for k in known]) from None
        named = f"setting {'.'.join(where)}" if where else "settings"
        raise SettingsError(
            f"{named}: {first['msg'].removeprefix('Value error, ')}; mend it in iom.yaml or the environment"
        ) from None


def _with_password(settings: Settings) -> Settings:
    """Its `postgres_url` with the password of `postgres_password_file`, so that no variable need hold one."""
    if settings.postgres_password_file is None:
        return settings
    login, _, place = urlsplit(settings.postgres_url or "").netloc.rpartition("@")
    if not login or ":" in login:
        raise SettingsError(
            "postgres_password_file needs a postgres_url with a user and no password; write postgresql://user@host:5432/database"
        )
    password = quote(read_secret(settings.postgres_password_file, "the PostgreSQL password"), safe="")
    url = urlsplit(settings.postgres_url or "")._replace(netloc=f"{login}:{password}@{place}").geturl()
    return settings.model_copy(update={"postgres_url": url})


def environment_with(**variables: str) -> dict[str, str]:
    """The process environment with `variables` added, for a subprocess."""
    return {**os.environ, **variables}


def environment_without_secrets(**variables: str) -> dict[str, str]:
    """Like `environment_with`, for a subprocess that needs neither the pseudonym key nor the server's password."""
    secret = {"IOM_PSEUDONYM_KEY", "IOM_PSEUDONYM_KEY_FILE", "IOM_POSTGRES_URL", "IOM_POSTGRES_PASSWORD_FILE"}
    return {**{name: value for name, value in os.environ.items() if name.upper() not in secret}, **variables}


def apply_environment(variables: dict[str, str]) -> None:
    """Set variables for this process and those it starts."""
    os.environ.update(variables)

"""The checkers of `make check` can fail: each import contract, lint rule and type rule sees a planted fault."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from iom_platform.settings import PROJECT_ROOT

BIN = Path(sys.executable).parent
FAULTS = {
    "Rooms: doors > hands > maths > words": ("tables.py", "from iom_platform import risk"),
    "Rooms: doors > hands > maths > words (a stray file)": ("utils.py", "ANSWER = 42"),
    "Only flow/, definitions and the command line know Dagster": ("storage/record.py", "import dagster"),
    "Only flow/, definitions and the command line know Dagster (the notebook)": (
        "notebook.py",
        "from iom_platform.flow import checks",
    ),
    "Maths touches no IO": ("privacy/kanonymity.py", "import duckdb"),
    "Maths touches no IO (the report)": ("report/page.py", "import psycopg2"),
    "Rooms: doors > hands > maths > words (the report reads no table)": (
        "report/page.py",
        "from iom_platform.storage import record",
    ),
    "MLflow has one door": ("flow/clustering.py", "import mlflow"),
    "Great Expectations has one door": ("flow/checks.py", "import great_expectations"),
    "No cycles": ("clustering/quality.py", "from iom_platform.clustering import profiles"),
}


@pytest.mark.parametrize(
    ("name", "door"), [("MLflow", {"model_registry", "model_runs"}), ("Great Expectations", {"expectations"})]
)
def test_a_door_is_the_only_one_left_out(name: str, door: set[str]) -> None:
    contracts = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (listed,) = [set(c["source_modules"]) for c in contracts if c["name"] == f"{name} has one door"]
    package = PROJECT_ROOT / "iom_platform"
    rooms = {p.stem for p in package.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()} - {
        "__init__",
        "storage",
    }
    hands = {p.stem for p in (package / "storage").glob("*.py")} - {"__init__"} - door
    assert listed == {f"iom_platform.{r}" for r in rooms} | {f"iom_platform.storage.{h}" for h in hands}


def _copy(tmp_path: Path) -> Path:
    shutil.copytree(
        PROJECT_ROOT / "iom_platform", tmp_path / "iom_platform", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(PROJECT_ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "lint-imports"), "--config", "pyproject.toml", "--no-cache"], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip


def _append(file: Path, line: str) -> None:
    with open(file, "a") as stream:
        stream.write(f"\n{line}\n")


@pytest.mark.parametrize("contract", FAULTS)
def test_each_import_contract_sees_its_fault(tmp_path: Path, contract: str) -> None:
    folder = _copy(tmp_path)
    file, line = FAULTS[contract]
    _append(folder / "iom_platform" / file, line)
    if contract == "No cycles":
        _append(folder / "iom_platform" / "clustering" / "profiles.py", "from iom_platform.clustering import quality")
    result = _lint_imports(folder)
    assert result.returncode != 0
    assert (
        "BROKEN" in result.stdout
        or "could not find" in (result.stdout + result.stderr).lower()
        or "not listed" in result.stdout
    )
    if "BROKEN" in result.stdout:
        assert f"{contract.partition(' (')[0]} BROKEN" in result.stdout


def test_the_import_contracts_are_kept(tmp_path: Path) -> None:
    result = _lint_imports(_copy(tmp_path))
    assert result.returncode == 0, result.stdout
    assert f"Contracts: {len({name.partition(' (')[0] for name in FAULTS})} kept, 0 broken." in result.stdout


@pytest.mark.parametrize(
    "line",
    [
        "import os\n\nHOME = os.environ['HOME']",
        "import os\n\nHOME = os.getenv('HOME')",
        "import numpy as np\n\nnp.random.seed(1)",
    ],
)
def test_ruff_sees_what_only_settings_may_do(tmp_path: Path, line: str) -> None:
    folder = _copy(tmp_path)
    (folder / "iom_platform" / "planted.py").write_text(f'"""Planted."""\n\n{line}\n')
    result = subprocess.run(
        [str(BIN / "ruff"), "check", "iom_platform"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "TID251" in result.stdout


def test_mypy_sees_a_wrong_type(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(
        '"""Planted."""\n\nfrom iom_platform.tables import find_table\n\nNUMBER: int = find_table("risk/student_risk")\n'
    )
    result = subprocess.run(
        [str(BIN / "mypy"), "--config-file", str(PROJECT_ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache"), "--follow-imports=silent", str(planted)],
        cwd=PROJECT_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Incompatible types in assignment" in result.stdout, result.stdout + result.stderr

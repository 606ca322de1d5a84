"""Every command of the README runs, in its order, in a clone of its own.

The clone shares this environment, so that what is installed is not installed again; the code that runs is the clone's.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from iom_platform.settings import PROJECT_ROOT

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
# these run the tests themselves, this one among them; what they name must exist
NOT_RUN = {
    "make test",
    ".venv/bin/pytest tests/unit/ -q",
    ".venv/bin/pytest tests/integration/ -q",
    ".venv/bin/pytest tests/privacy/ -q",
    ".venv/bin/pytest tests/performance/ --benchmark",
    ".venv/bin/pytest --cov=. --cov-report=html",
}


def _commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.M | re.S)
    return [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not (Path(sys.prefix) / ".ready").is_file():
        pytest.skip("this environment was not made by `make`, which would install the clone into it")
    folder = tmp_path_factory.mktemp("readme") / "clone"
    subprocess.run(["git", "clone", "-q", str(PROJECT_ROOT), str(folder)], check=True)
    # what is not committed yet is tried as well
    changed = subprocess.run(
        ["git", "ls-files", "-mo", "--exclude-standard"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    for name in changed.stdout.splitlines():
        if (PROJECT_ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((PROJECT_ROOT / name).read_bytes())
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("requirements.lock", "pyproject.toml"):  # else make would install the clone into this environment
        os.utime(folder / name, (0, 0))
    yield folder
    _run(folder, ".venv/bin/iom down") if (folder / ".venv").exists() else None


def _environment(clone: Path) -> dict[str, str]:
    # MAKE...: a make within `make test` would say which directory it enters
    others = ("IOM_", "DAGSTER_", "DBT_", "MAKE", "MFLAGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return {**kept, "PYTHONPATH": str(clone)}


def _run(clone: Path, command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", command], cwd=clone, env=_environment(clone), capture_output=True, text=True, timeout=900, check=False
    )  # fmt: skip


def _serve(clone: Path, command: str) -> list[str]:
    """What the services say until they run; Ctrl-C then ends them."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=clone, env=_environment(clone),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.rstrip())
        if "Ctrl-C" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    return said


def test_the_commands_of_the_readme_do_what_it_says(clone: Path) -> None:
    said: dict[str, str] = {}
    for command in _commands():
        if command in NOT_RUN:
            continue
        if command == "make up":
            said[command] = "\n".join(_serve(clone, command))
            continue
        if command == "make clean":
            left = {p.name for p in clone.iterdir()}
            shown = [
                line.split()[0] for line in said["make demo"].partition("\nNext:\n")[2].splitlines() if line.strip()
            ]
            assert [name for name in shown if not os.access(clone / name, os.X_OK)] == []
            assert len(shown) > 3
        done = _run(clone, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said[command] = done.stdout
    demo = said["make demo"]
    assert re.search(r"^course_id +students +LOW +MEDIUM +HIGH +UNKNOWN$", demo, flags=re.M)
    assert re.search(r"^risk/student_risk +\d+ ", said[".venv/bin/iom tables"], flags=re.M)
    assert {"student_risk.csv", "my_template", "my_extract", ".iom"} <= left
    assert "Not in force yet:" in said[".venv/bin/iom doctor"]
    assert "asset graph:  http://127.0.0.1:" in said["make up"]
    assert re.search(r"^Ready", said[".venv/bin/iom check --source synthetic --path my_extract"], flags=re.M)
    assert not {".iom", ".venv"} & {p.name for p in clone.iterdir()}


def test_what_is_not_run_here_is_said_and_exists() -> None:
    assert set(_commands()) >= NOT_RUN
    for command in NOT_RUN:
        for word in command.split():
            if word.startswith("tests/"):
                assert (PROJECT_ROOT / word).is_dir()


def test_links_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", README, flags=re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif not target.startswith("http"):
            assert (PROJECT_ROOT / target).exists(), target

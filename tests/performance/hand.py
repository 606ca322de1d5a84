"""`make bench`: how long a person waits for the commands that only say something, and for what they import.

The stages of a run are measured in bench.py. No limit of time is asserted anywhere.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 5
_BIN = Path(sys.executable).parent
# what is run -> target in seconds
COMMANDS = {
    "iom --help": ([str(_BIN / "iom"), "--help"], 0.5),
    "iom doctor": ([str(_BIN / "iom"), "doctor"], 2.0),
    "import iom_platform.cli": ([sys.executable, "-c", "import iom_platform.cli"], None),
    "import iom_platform.notebook": ([sys.executable, "-c", "import iom_platform.notebook"], None),
    "import iom_platform.definitions": ([sys.executable, "-c", "import iom_platform.definitions"], None),
    "nothing: python -c pass": ([sys.executable, "-c", "pass"], None),
}  # fmt: skip


def time_commands(home: Path, repeats: int = REPEATS) -> dict[str, float]:
    """The median seconds of each, after a first run that is not counted; `iom doctor` finds a server running."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("IOM_", "PG"))}
    environment["IOM_HOME"] = str(home)

    def run(command: list[str]) -> float:
        began = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - began

    run([str(_BIN / "iom"), "env"])
    try:
        return {name: statistics.median([run(command) for _ in range(repeats + 1)][1:])
                for name, (command, _) in COMMANDS.items()}  # fmt: skip
    finally:
        run([str(_BIN / "iom"), "down"])


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="iom-hand-") as folder:
        seconds = time_commands(Path(folder))
    print(f"\n{'what a person waits for':<36}{'seconds':>8}   median of {REPEATS}")
    for name, (_, target) in COMMANDS.items():
        verdict = "" if target is None else f"   target {target:g}: {'met' if seconds[name] <= target else 'MISSED'}"
        print(f"{name:<36}{seconds[name]:>8.2f}{verdict}")


if __name__ == "__main__":
    main()

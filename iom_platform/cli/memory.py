"""How much memory a command needs for a file of learners, what the machine has left, and what is done where it is less.

Keeping columns on disk is for `extract/learner_columns.py` to do; here it is only decided, and said.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# of the process itself with the blocks that it works on, by what is fitted; then by learner
_BASE, _BASE_OF_METHODS = 500_000_000, 1_200_000_000
_WHILE_READ = 16  # a digest of each id, twice while repeated ones are looked for
_WHILE_MEASURED = 8  # what quartiles of a feature of few values sort, of two features at a time
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
_V2 = ("memory.max", "memory.current", "")


@dataclass(frozen=True)
class Plan:
    """Whether the columns lie on disk, and what is told of it."""

    is_on_disk: bool
    told: str


def plan_memory(learners: int, features: int, algorithms: int, *, has_methods: bool, available: int | None) -> Plan:
    """How a file of about so many learners is held; available: bytes, None where nobody knows.

    has_methods: whether one of the algorithms is fitted on a sample.
    """
    base, columns = _BASE_OF_METHODS if has_methods else _BASE, 4 * features * learners
    needed = base + columns + max(_WHILE_READ, algorithms + _WHILE_MEASURED) * learners
    told = f"about {_size(needed)} of memory are needed for about {learners:,} learners"
    if available is None:
        return Plan(False, told)
    if needed <= available:
        return Plan(False, f"{told}, and {_size(available)} are free")
    less = base + (algorithms + _WHILE_MEASURED) * learners
    told += (
        f", and only {_size(available)} are free; their columns lie in a file of {_size(columns)} beside the output until "
        f"the end, in another one while the file is read, and about {_size(less)} of memory are needed"
    )
    return Plan(True, told if less <= available else f"{told}, which is too much still: make room")


def find_available(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: the machine's, or what its control groups leave; None where it is no Linux."""
    return min((*_read_machine(root), *_read_groups(root)), default=None)


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _read_machine(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _read_groups(root: Path) -> Iterator[int]:
    """What is left of the group of this process, and of each above it; version 1 and 2 of control groups."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        # within a container the path may be that of the machine outside
        inner = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(inner) + 1):
            yield from _read_group(base.joinpath(*inner[:depth]), *(_V1 if controllers else _V2))


def _read_group(folder: Path, limit: str, used: str, prefix: str) -> Iterator[int]:
    most, current = _read(folder / limit).strip(), _read(folder / used).strip()
    if most.isdigit() and current.isdigit():
        stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
        # pages of files are given up where memory is short
        files = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        yield max(int(most) - int(current) + files, 0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

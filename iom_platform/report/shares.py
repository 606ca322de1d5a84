"""A share with its uncertainty, in the words that the report prints.

Which things are counted is a matter for the report's sections.
"""

from dataclasses import dataclass

from iom_platform.risk import wilson

NOTHING = "-"


@dataclass(frozen=True)
class Share:
    """`hits` of `total`; `low` and `high` bound its Wilson 95 % interval, None where nothing was counted."""

    hits: int
    total: int

    @property
    def value(self) -> float | None:
        return self.hits / self.total if self.total else None

    @property
    def low(self) -> float | None:
        return wilson(self.hits, self.total)[0]

    @property
    def high(self) -> float | None:
        return wilson(self.hits, self.total)[1]

    @property
    def percent(self) -> str:
        return say_percent(self.value)

    @property
    def interval(self) -> str:
        """Such as "15% to 25%"; a dash where nothing was counted."""
        return NOTHING if self.value is None else f"{say_percent(self.low)} to {say_percent(self.high)}"


def say_percent(share: float | None) -> str:
    """Whole percent; what is neither none nor all is not rounded to it."""
    if share is None:
        return NOTHING
    rounded = round(100 * share)
    if rounded == 0 and share > 0:
        return "under 1%"
    if rounded == 100 and share < 1:
        return "over 99%"
    return f"{rounded}%"


def few(number: int, k: int) -> str:
    """Such as "0", "under 5" or "1,200": a number of persons under k is not told exactly."""
    return f"under {k}" if 0 < number < k else f"{number:,}"


def count(number: int, one: str, many: str) -> str:
    """Such as "1 student" or "1,200 students"."""
    return f"{number:,} {one if number == 1 else many}"

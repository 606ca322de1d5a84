"""The clock: the one place that reads it.

Maths takes `now` as an argument; nothing to the left of the doors imports this.
"""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from iom_platform.settings import Settings


def today(settings: Settings) -> date:
    """The day that is running in the institution's time zone."""
    return datetime.now(ZoneInfo(settings.institution.timezone)).date()


def utc_now() -> datetime:
    """This moment in UTC, without a zone, as the tables keep it."""
    return datetime.now(UTC).replace(tzinfo=None)

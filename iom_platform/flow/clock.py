"""The institution's day: the one place where a door reads the clock for a date.

Maths takes `now` as an argument; nothing to the left of the doors imports this.
"""

from datetime import date, datetime
from zoneinfo import ZoneInfo

from iom_platform.settings import Settings


def today(settings: Settings) -> date:
    """The day that is running in the institution's time zone."""
    return datetime.now(ZoneInfo(settings.institution.timezone)).date()

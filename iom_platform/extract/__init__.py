"""The sources that the platform can read, by name.

What a source delivers stands in its own module; loading the warehouse does not belong in this room.
"""

from iom_platform.extract.oulad import OULAD_PUBLISHED_ON, OuladSource
from iom_platform.extract.source import Source

SOURCES: dict[str, Source] = {
    "oulad": OuladSource("oulad", default_delivered_on=OULAD_PUBLISHED_ON),
    "synthetic": OuladSource("synthetic"),
}

"""Pages of the web: got within bounds, made to text, recorded and replayed."""

from aster_env.web.base import Fetched, Link, Page, PageError, Source
from aster_env.web.extract import Extractor
from aster_env.web.fetch import Fetcher
from aster_env.web.guard import Guard
from aster_env.web.record import Recorder, ReplayMissError

__all__ = [
    "Extractor",
    "Fetched",
    "Fetcher",
    "Guard",
    "Link",
    "Page",
    "PageError",
    "Recorder",
    "ReplayMissError",
    "Source",
]

"""Web searches behind one protocol."""

from aster_env.web.providers.base import Hit, Provider
from aster_env.web.providers.bing import bing_search
from aster_env.web.providers.recorded import recorded
from aster_env.web.providers.remote import PROVIDERS, WebProvider, open_provider

__all__ = [
    "PROVIDERS",
    "Hit",
    "Provider",
    "WebProvider",
    "bing_search",
    "open_provider",
    "recorded",
]

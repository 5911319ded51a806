"""A generated web site that nobody can remember: its pages, their server, a search over them."""

from .build import build_site
from .model import Served, Site
from .search import SiteSearch
from .server import SiteServer, site_guard

__all__ = ["Served", "Site", "SiteSearch", "SiteServer", "build_site", "site_guard"]

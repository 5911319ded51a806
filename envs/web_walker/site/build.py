"""Building a site: the same for the same seed, size and split, byte for byte."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from aster_env.errors import UsageError, check_name

from .markup import Frame
from .model import SPLITS, Served, Site
from .noise import noise
from .pages import content
from .province import make_province, slug
from .questions import questions

MIN_SIZE, MAX_SIZE = 120, 5000


def build_site(seed: int = 0, size: int = 300, split: str = "train") -> Site:
    """Return the site of a seed; the same one every time, so treat it as read-only.

    Args:
        seed: other names, numbers and questions.
        size: about how many pages it has.
        split: ``"train"`` or ``"test"``: no name of a person, place or museum is in both, whatever the seeds.

    Raises:
        UsageError: an argument is not allowed.
    """
    check_name("split", split, SPLITS)
    for name, value, least, most in (("seed", seed, 0, 2**63), ("size", size, MIN_SIZE, MAX_SIZE)):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise UsageError(f"{name}={value!r} of the site is not allowed. Allowed: an integer, {least} to {most}.")
    return _built(seed, size, split)


@lru_cache(maxsize=4)
def _built(seed: int, size: int, split: str) -> Site:
    province = make_province(seed, size, split)
    frame = Frame(province.name, [(news.title, f"/news/{news.slug}") for news in province.news[4:8]])
    pages = dict([*noise(province, frame), *content(province, frame)])
    host = f"www.{slug(province.name)}.example"
    asked = questions(province, f"http://{host}/")
    return Site(seed, size, split, host, pages, asked, _digest(pages))


def _digest(pages: dict[str, Served]) -> str:
    whole = hashlib.sha256()
    for path, page in sorted(pages.items()):
        for part in (path, str(page.status), page.content_type, page.location):
            whole.update(part.encode() + b"\0")
        whole.update(hashlib.sha256(page.body).digest())
    return whole.hexdigest()

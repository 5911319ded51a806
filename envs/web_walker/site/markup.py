"""HTML as such sites have it: a banner, navigation, the content, a column of further things, a footer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from .model import Served

_NAVIGATION = (
    ("Home", "/"), ("Districts", "/districts/"), ("Towns", "/towns/"), ("Museums", "/museums/"), ("News", "/news/"),
    ("Departments", "/departments/"), ("Staff", "/people/"), ("Ferries", "/ferries/"), ("Statistics", "/statistics/"),
    ("Annual reports", "/reports/"), ("By-laws", "/law/"), ("Search", "/search"),
)  # fmt: skip
_FOOTER = (
    ("Contact", "/contact"), ("Privacy", "/privacy"), ("Cookies", "/cookies"), ("Imprint", "/imprint"),
    ("Accessibility", "/accessibility"), ("For programs", "/notice"), ("Topics", "/tags/"), ("RSS", "/feed.xml"),
    ("Intranet", "/internal/"), ("Old web site", "http://old.province.example/"),
)  # fmt: skip
_BANNER = (
    '<div class="cookie-banner" role="dialog"><p>We use cookies to give you the best experience on our web site. By '
    'continuing to use it you agree to our <a href="/cookies">cookie policy</a>.</p><button>Accept all</button>'
    '<button>Only necessary</button> <a href="/cookies#settings">Settings</a></div>'
)


class Frame:
    """What surrounds every page of a site.

    Args:
        name: of the province.
        aside: further things: titles and paths.
    """

    def __init__(self, name: str, aside: Sequence[tuple[str, str]] = ()) -> None:
        self.name = name
        self._aside = "".join(
            f'<li><h4>{escape(title)}</h4><a href="{escape(path)}">Read more</a></li>' for title, path in aside
        )

    def page(
        self, title: str, body: str, trail: Iterable[tuple[str, str]] = (), head: str = "", summary: str = ""
    ) -> str:
        """Return a page.

        Args:
            title: of the page and its heading.
            body: HTML of the content.
            trail: the pages above it.
            head: more for ``<head>``.
            summary: its description.
        """
        crumbs = " › ".join([*(link(text, path) for text, path in trail), escape(title)])
        described = f'<meta name="description" content="{escape(summary)}">' if summary else ""
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><title>{escape(title)} | Province of {self.name}</title>'
            f'{described}{head}<link rel="stylesheet" href="/style.css"><script>window.site = {{cookies: "ask"}};'
            f"</script></head>\n<body>{_BANNER}"
            f'<header><a class="skip" href="#content">Skip to the content</a><p class="logo">Province of {self.name}'
            "</p>"
            f"<nav><ul>{''.join(f'<li>{link(*each)}</li>' for each in _NAVIGATION)}</ul></nav></header>\n"
            f'<div class="breadcrumbs">{crumbs}</div>\n<main id="content"><article><h1>{escape(title)}</h1>\n{body}\n'
            f"</article></main>\n<aside><h3>You may also like</h3><ul>{self._aside}</ul></aside>\n"
            f"<footer><p>© Province of {self.name}. All rights reserved. Office hours: see the contact page.</p>"
            f"<ul>{''.join(f'<li>{link(*each)}</li>' for each in _FOOTER)}</ul></footer></body></html>"
        )


def link(text: str, path: str) -> str:
    """Return an anchor."""
    return f'<a href="{escape(path)}">{escape(text)}</a>'


def paragraphs(*texts: str) -> str:
    """Return paragraphs of HTML."""
    return "\n".join(f"<p>{text}</p>" for text in texts)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are HTML."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def pager(path: str, page: int, count: int) -> str:
    """Return links to the pages of a list, by relative queries."""
    if count == 1:
        return ""
    numbers = (
        f"<b>{n}</b>" if n == page else link(str(n), place(path, n) if n == 1 else f"?page={n}")
        for n in range(1, count + 1)
    )
    back = link("Previous page", place(path, page - 1)) if page > 1 else ""
    on = link("Next page", place(path, page + 1)) if page < count else ""
    return f'<div class="pager">Page {page} of {count}: {" ".join(numbers)} {back} {on}</div>'


def place(path: str, page: int) -> str:
    """Return the path of a page of a list."""
    return path if page == 1 else f"{path}?page={page}"


def html(text: str, title: str = "", summary: str = "", words: str = "", coding: str = "utf-8") -> Served:
    """Return a page as it is served.

    Args:
        text: the HTML.
        title: for the site's search; "" keeps it out.
        summary: for the site's search.
        words: what the search finds it by.
        coding: ``utf-8``; ``latin-1`` (told by ``<meta>`` alone), ``utf-16`` (by its byte order mark alone),
            ``mislabelled`` (UTF-8 that calls itself ISO-8859-1), ``cp1252`` (which calls itself UTF-8).
    """
    found: dict[str, Any] = {"title": title, "summary": summary, "text": words}
    if coding == "latin-1":
        text = text.replace("<head>", '<head><meta charset="iso-8859-1">').replace("›", "&gt;")
        return Served(content_type="text/html", body=text.encode("latin-1", "xmlcharrefreplace"), **found)
    if coding == "utf-16":
        return Served(content_type="text/html", body=b"\xff\xfe" + text.encode("utf-16-le"), **found)
    if coding == "mislabelled":
        return Served(content_type="text/html; charset=iso-8859-1", body=text.encode(), **found)
    if coding == "cp1252":
        return Served(body=text.encode("cp1252", "xmlcharrefreplace"), **found)
    return Served(body=text.encode(), **found)

"""Plots as SVG, written by hand: text stays text, colours follow the page's theme, equal data give equal bytes."""

from __future__ import annotations

import html
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from aster_env.evaluate.report.cells import clean

Point = tuple[float, float]
SHAPES = 6
"""How many marks and colours there are for published models."""


def element(tag: str, *inside: str, **attributes: object) -> str:
    """Return an element whose attributes are escaped; ``inside`` is markup already, made by this or ``escape``.

    An underscore at the end of an attribute's name is dropped (``class_``), others become hyphens.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value, sys.maxsize)}"'
        for name, value in attributes.items()
        if value != ""
    )
    return f"<{tag}{written}>{''.join(inside)}</{tag}>"


def escape(value: object, limit: int = 2000) -> str:
    """Return a number with at most two decimals, or foreign text that neither markup nor a reader can misread."""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".") if round(value, 2) else "0"
    return html.escape(clean(value, limit), quote=True)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most ``most`` round numbers between two."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    size = 10.0 ** math.floor(math.log10(span / most))
    step = next(size * m for m in (1, 2, 5, 10, 20) if span / (size * m) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass
class Plot:
    """A drawing with a name and a description, in units of its view box.

    Args:
        title: what it shows, read out first.
        description: what a reader who does not see it needs to know.
        width: of the view box.
        height: of the view box.
        caption: what is written below it, where the description is too long for that.
    """

    title: str
    description: str
    width: float = 460.0
    height: float = 260.0
    caption: str = ""
    parts: list[str] = field(default_factory=list)

    def add(self, tag: str, *inside: str, **attributes: object) -> None:
        """Append an element."""
        self.parts.append(element(tag, *inside, **attributes))

    def text(self, x: float, y: float, words: object, anchor: str = "start", class_: str = "", limit: int = 60) -> None:
        """Append a text; ``anchor`` is start, middle or end."""
        inside = escape(clean(words, limit))
        self.add("text", inside, x=float(x), y=float(y), text_anchor=anchor, class_=class_)

    def line(self, a: Point, b: Point, class_: str = "axis") -> None:
        """Append a line."""
        self.add("line", x1=float(a[0]), y1=float(a[1]), x2=float(b[0]), y2=float(b[1]), class_=class_)

    def rect(self, x: float, y: float, width: float, height: float, class_: str, hint: str = "") -> None:
        """Append a rectangle; ``hint`` is shown when it is pointed at."""
        inside = [element("title", escape(hint))] if hint else []
        self.add("rect", *inside, x=float(x), y=float(y), width=max(0.0, width), height=max(0.0, height), class_=class_)

    def path(self, points: Sequence[Point], class_: str, *, closed: bool = False, hint: str = "") -> None:
        """Append a line through points, or the area within them."""
        if points:
            way = "L".join(f"{escape(float(x))} {escape(float(y))}" for x, y in points)
            inside = [element("title", escape(hint))] if hint else []
            self.add("path", *inside, d=f"M{way}{'Z' if closed else ''}", class_=class_)

    def mark(self, x: float, y: float, shape: int, class_: str, hint: str = "") -> None:
        """Append a mark; each ``shape`` differs, so that none is told by its colour alone."""
        r = 5.0
        corners = [
            [(0, -r), (r, 0), (0, r), (-r, 0)],
            [(-r, -r), (r, -r), (r, r), (-r, r)],
            [(0, -r), (r, r), (-r, r)],
            [(0, r), (r, -r), (-r, -r)],
            [(-r, 0), (0, -2.5), (r, 0), (0, 2.5)],
            [(0, -r), (2.5, 0), (0, r), (-2.5, 0)],
        ]
        self.path([(x + dx, y + dy) for dx, dy in corners[shape % SHAPES]], class_, closed=True, hint=hint)

    def svg(self) -> str:
        """Return the drawing."""
        head = element("title", escape(self.title)) + element("desc", escape(self.description, 4000))
        box = f"0 0 {escape(float(self.width))} {escape(float(self.height))}"
        return element("svg", head, *self.parts, viewBox=box, role="img")


@dataclass
class Axes:
    """A frame within a plot: maps values to places.

    Args:
        plot: what it draws on.
        x: lowest and highest value from left to right.
        y: lowest and highest value from the bottom up.
        margin: left, top, right, bottom.
    """

    plot: Plot
    x: Point = (0.0, 1.0)
    y: Point = (0.0, 1.0)
    margin: tuple[float, float, float, float] = (46.0, 14.0, 14.0, 44.0)

    def at(self, x: float, y: float) -> Point:
        """Return the place of a pair of values, kept within the frame."""
        left, top, right, bottom = self.margin
        return (
            left + _part(x, self.x) * (self.plot.width - left - right),
            self.plot.height - bottom - _part(y, self.y) * (self.plot.height - top - bottom),
        )

    def draw(
        self, x_name: str, y_name: str, *, percent: bool = True, x_ticks: Sequence[tuple[float, str]] = ()
    ) -> None:
        """Draw the frame: lines across at the values of y, names of both axes, and the given ticks of x."""
        for value in ticks(*self.y):
            a, b = self.at(self.x[0], value), self.at(self.x[1], value)
            self.plot.line(a, b, "grid")
            self.plot.text(a[0] - 6, a[1] + 4, f"{100 * value if percent else value:,.0f}", "end")
        for value, words in x_ticks:
            place = self.at(value, self.y[0])
            self.plot.text(place[0], place[1] + 16, words, "middle")
        self.plot.line(self.at(self.x[0], self.y[0]), self.at(self.x[1], self.y[0]))
        middle = self.at((self.x[0] + self.x[1]) / 2, self.y[0])
        self.plot.text(middle[0], self.plot.height - 8, x_name, "middle", "name")
        up = f"rotate(-90 12 {escape(self.plot.height / 2 - 14)})"
        self.plot.add(
            "text",
            escape(y_name),
            x=12.0,
            y=self.plot.height / 2 - 14,
            text_anchor="middle",
            class_="name",
            transform=up,
        )


def _part(value: float, between: Point) -> float:
    low, high = between
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5

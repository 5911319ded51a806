"""Text from pages, side by side: the tools' own extractor, trafilatura alone, readability-lxml alone."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import lxml.html

from aster_env.web import Extractor, Fetched
from aster_env.web.worker import decode

from .pages import Sample, text_of
from .score import compare, margin, score

Texts = tuple[list[str], list[float]]
"""The extracted text of each page, and the seconds that it took."""

_WARM = Sample("warm", b"<html><body><p>The first page pays for what is imported.</p></body></html>", "text/html", "")


def measure(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return scores and times of each extractor; an empty text where one fails."""
    alone, rows = dict[str, Callable[[str], str]](), dict[str, Any]()
    for name, extract in ALONE.items():
        package, *special = name.split(", ")
        try:
            alone[", ".join([f"{package} {version(package)}", *special])] = extract
        except PackageNotFoundError:
            rows[name] = {"missing": f"pip install {package}"}
    found = asyncio.run(_extract(samples, alone))
    rows = {**{name: _row(samples, texts) for name, texts in found.items()}, **rows}
    return {"pages": len(samples), "words": sum(len(sample.truth.split()) for sample in samples), "rows": rows}


def table(results: Mapping[str, Any]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| pages | extractor | F1 | precision / recall | F1 of single words | mean / p95, ms a page | empty |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, part in results.items():
        label = f"{name} ({part['pages']} pages, {part['words']:,} words)"
        for extractor, row in part["rows"].items():
            if "missing" in row:
                lines.append(f"| {label} | {extractor} | not installed: {row['missing']} | | | | |")
                continue
            lines.append(
                f"| {label} | {extractor} | {row['f1']:.3f} ± {row['margin']:.3f} | {row['precision']:.3f} / "
                f"{row['recall']:.3f} | {row['word_f1']:.3f} | {row['mean_ms']:.1f} / {row['p95_ms']:.1f} "
                f"| {row['empty']} |"
            )
    return "\n".join(lines)


def _row(samples: Sequence[Sample], found: Texts) -> dict[str, Any]:
    texts, took = found
    pairs = [(sample.truth, text) for sample, text in zip(samples, texts, strict=True)]
    counts = [compare(*pair) for pair in pairs]
    return {
        **{name: round(value, 4) for name, value in score(counts).items()},
        "margin": round(margin(counts), 4),
        "word_f1": round(score([compare(*pair, shingle=1) for pair in pairs])["f1"], 4),
        "mean_ms": round(1000 * statistics.fmean(took), 2),
        "p95_ms": round(1000 * statistics.quantiles(took, n=20)[-1], 2),
        "empty": sum(not text for text in texts),
    }


async def _extract(samples: Sequence[Sample], alone: Mapping[str, Callable[[str], str]]) -> dict[str, Texts]:
    """Give each page to all in turn, so that what else the machine does slows none more than another.

    Ours gets bytes, and reads them in a worker process, whose start is not counted, as ``visit`` does; the others get
    text that is decoded already, in this process.
    """
    extractor = Extractor(workers=1, recycle=10**9, seconds=60)
    found: dict[str, Texts] = {name: ([], []) for name in ("ours", *alone)}

    async def ours(sample: Sample) -> str:
        return (await extractor.page(Fetched("http://a.example/", 200, sample.content_type, sample.body))).text

    try:
        for sample in [_WARM, *samples]:
            html = decode(sample.body, sample.content_type)
            for name, (texts, took) in found.items():
                started = time.perf_counter()
                try:
                    text = await ours(sample) if name == "ours" else alone[name](html)
                except Exception:  # noqa: BLE001 (extractors raise anything; that is an empty text)
                    text = ""
                took.append(time.perf_counter() - started)
                texts.append(text)
    finally:
        await extractor.close()
    return {name: (texts[1:], took[1:]) for name, (texts, took) in found.items()}


def _trafilatura(html: str) -> str:
    import trafilatura

    return trafilatura.extract(html) or ""


def _trafilatura_fast(html: str) -> str:
    import trafilatura

    return trafilatura.extract(html, fast=True) or ""


def _readability(html: str) -> str:
    from readability import Document

    summary = Document(html).summary()
    return text_of(lxml.html.fromstring(summary))


ALONE: Mapping[str, Callable[[str], str]] = {
    "trafilatura": _trafilatura,
    "trafilatura, fast": _trafilatura_fast,
    "readability-lxml": _readability,
}
"""By the name of the package, and what is special."""

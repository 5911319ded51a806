"""The retrieval service under 64 clients against one request at a time, as a process of its own.

Run alone: ``python -m benchmarks.retrieval.service CORPUS [--quick]``. Every query is asked once, so neither the cache
nor the sharing of equal queries helps. The load comes from this process, over bare sockets: a full HTTP client would
be what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aster_env.retrieval.corpus import Corpus

CLIENTS, GOAL = 64, 5.0


def measure(corpus_folder: Path, quick: bool) -> dict[str, Any]:
    """Serve each index that the corpus has, and return what was measured of it.

    Args:
        corpus_folder: a corpus with a ``lexical`` index, a ``dense`` one, or both.
        quick: 1 s a measurement rather than 5.
    """
    kinds = [kind for kind in ("lexical", "dense") if (corpus_folder / kind).is_dir()]
    seconds = 1.0 if quick else 5.0
    rows = [
        {"kind": kind, "window_ms": window, **_measure(corpus_folder, kind, window, seconds)}
        for kind in kinds
        for window in (5.0, 0.0)
    ]
    return {"clients": CLIENTS, "goal": GOAL, "passages": len(Corpus(corpus_folder)), "rows": rows}


def table(result: dict[str, Any]) -> str:
    """Return the rows as text."""
    lines = ["kind     window   alone /s  p50 ms   64 clients /s  p50 / p99 ms    ratio  errors  queries a search"]
    for row in result["rows"]:
        alone, many = row["alone"], row["many"]
        lines.append(
            f"{row['kind']:8} {row['window_ms']:3.0f} ms {alone['per_second']:10,.0f} {alone['p50_ms']:7.1f} "
            f"{many['per_second']:14,.0f} {many['p50_ms']:7.1f} / {many['p99_ms']:5.1f} {row['ratio']:7.1f}x "
            f"{alone['errors'] + many['errors']:6d} {row['batch']:10.1f}"
        )
    return "\n".join(lines)


def _measure(folder: Path, kind: str, window: float, seconds: float) -> dict[str, Any]:
    with _service(folder, kind, window) as (host, port):
        queries = _queries(Corpus(folder))
        asyncio.run(_load(host, port, queries, 4, min(1.0, seconds)))
        alone = asyncio.run(_load(host, port, queries, 1, seconds))
        before = asyncio.run(_batches(host, port))
        many = asyncio.run(_load(host, port, queries, CLIENTS, seconds))
        after = asyncio.run(_batches(host, port))
    batch = (after[1] - before[1]) / max(1.0, after[0] - before[0])
    return {"alone": alone, "many": many, "ratio": many["per_second"] / alone["per_second"], "batch": batch}


@contextlib.contextmanager
def _service(folder: Path, kind: str, window: float) -> Iterator[tuple[str, int]]:
    arguments = ["serve", "retrieval", str(folder), "--kind", kind, "--port", "0", "--window", str(window)]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
    process = subprocess.Popen(
        [sys.executable, "-m", "aster_env.cli", *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line or process.stdout.readline() != "Ready.\n":
                raise RuntimeError(f"The service did not start: {line!r}.")
            host, _, port = line.split()[2].removeprefix("http://").partition(":")
            yield host, int(port)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _queries(corpus: Corpus) -> Iterator[str]:
    """Yield queries of a few words of a passage, each of them once."""
    generator = random.Random(0)
    for number in range(1_000_000_000):
        passage = corpus[generator.randrange(len(corpus))]
        words = passage.text.split()
        start = generator.randrange(max(1, len(words) - 6))
        yield " ".join([passage.title, *words[start : start + 6], str(number)])


async def _load(host: str, port: int, queries: Iterator[str], clients: int, seconds: float) -> dict[str, Any]:
    """Ask with so many clients, each its next query after the answer to its last, and return rates and latencies."""
    took: list[float] = []
    errors = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(host, port)
        while (started := time.perf_counter()) < end:
            body = json.dumps({"queries": [next(queries)], "topk": 3, "return_scores": True}).encode()
            head = f"POST /retrieve HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            status, answer = await _read(reader)
            took.append(time.perf_counter() - started)
            errors += status != 200 or not answer.startswith(b'{"result":[[{"document":')
        writer.close()
        await writer.wait_closed()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    elapsed = time.perf_counter() - started
    cuts = statistics.quantiles(took, n=100)
    return {
        "requests": len(took),
        "per_second": len(took) / elapsed,
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
        "errors": errors,
    }


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(head[9:12]), await reader.readexactly(length)


async def _batches(host: str, port: int) -> tuple[float, float]:
    """Return how many searches there were, and how many queries in them."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    _, text = await _read(reader)
    writer.close()
    await writer.wait_closed()
    values = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    return tuple(float(values[f"aster_retrieval_batch_size_{part}"]) for part in ("count", "sum"))  # type: ignore[return-value]


def main() -> None:
    """Measure and print the table and JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    result = measure(options.corpus, options.quick)
    print(table(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()

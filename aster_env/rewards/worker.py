"""A worker process that judges mathematical equivalence: JSON lines in, JSON lines out; run by path.

In a process of its own, an answer that takes for ever, or all the memory, harms nothing: the parent kills the process.
It ends when its standard input closes, or within a second of the parent's death.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import threading
import time

MEMORY = 4 << 30


def judge(golds: list[str], answer: str) -> bool:
    """Whether ``answer`` is mathematically equivalent to any of ``golds``, all of them without a box."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    configuration = [LatexExtractionConfig(), ExprExtractionConfig()]

    def read(text: str) -> list[object]:
        found: list[object] = parse(
            f"\\boxed{{{text}}}", extraction_config=configuration, parsing_timeout=None, raise_on_error=False
        )
        return found

    target = read(answer)
    return any(verify(read(gold), target, timeout_seconds=None) for gold in golds)


def _end_with_parent() -> None:
    """End even while a judgement runs: then nothing reads the closed input."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    """Answer one request a line until the input closes."""
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    judge(["1"], "1.0")
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        request = json.loads(line)
        try:
            verdict: bool | None = judge(request["golds"], request["answer"])
        except Exception:  # noqa: BLE001 (the libraries behind raise anything on hostile input: "not judged")
            verdict = None
        print(json.dumps(verdict), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()

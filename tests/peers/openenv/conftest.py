from __future__ import annotations

import pytest

from benchmarks.load.clients import golds
from benchmarks.load.server import Server, serving


@pytest.fixture(scope="package")
def server():
    # Without spare sessions, the service has a process below it for each session and no other that comes and goes.
    with serving("--max-sessions", "32", env_kwargs={"pool_options": {"spares": 0}}) as running:
        yield running


@pytest.fixture(scope="session")
def answers():
    return golds()


@pytest.fixture
def serve():
    """Starts services with arguments of their own, and ends them."""
    running: list[Server] = []

    def start(*arguments, **options):
        running.append(Server(*arguments, **options))
        return running[-1]

    yield start
    for each in running:
        each.stop()

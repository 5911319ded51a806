"""The servers behind remote pools, started once for all tests that ask for them."""

from __future__ import annotations

import pytest

from tests.kernels.servers import gateway_server, sandboxfusion_server


@pytest.fixture(scope="session")
def gateway(tmp_path_factory):
    with gateway_server(tmp_path_factory.mktemp("gateway")) as server:
        yield server


@pytest.fixture(scope="session")
def sandboxfusion():
    with sandboxfusion_server() as server:
        yield server

"""The guard alone: which addresses are public, and whose fault a failure is."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env.errors import UsageError, WebError
from aster_env.web import Guard, PageError
from aster_env.web.guard import is_public
from tests.web.world import PUBLIC, Names


@pytest.mark.parametrize("numbers", [[socket.EAI_AGAIN, socket.EAI_AGAIN], [socket.EAI_AGAIN, 0], [socket.EAI_NONAME]])
def test_a_resolver_that_is_down_is_told_from_a_name_whose_servers_are(numbers):
    async def resolver(host, port):
        if number := numbers.pop(0):
            raise socket.gaierror(number, "no answer")
        return [PUBLIC]

    error = WebError if numbers == [socket.EAI_AGAIN, socket.EAI_AGAIN] else PageError

    async def run():
        guard = Guard(resolver=resolver)
        with pytest.raises(error):
            await guard.addresses("dead.test", 80)
        guard.close()

    asyncio.run(run())


def test_a_machine_without_a_route_is_not_the_pages_fault():
    class NoRoute(Names):
        async def connect_tcp(self, *args, **options):
            import errno

            import httpcore

            raise httpcore.ConnectError("unreachable") from OSError(errno.ENETUNREACH, "Network is unreachable")

    async def run():
        names = NoRoute({"site.test": [[PUBLIC]]})
        guard = Guard(resolver=names, backend=names)
        with pytest.raises(WebError, match="no route"):
            await guard.connect_tcp("site.test", 80)
        guard.close()

    asyncio.run(run())


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_one_is_judged_as_itself(address):
    number = int(address)
    high, low = f"{number >> 16:x}", f"{number & 0xFFFF:x}"
    assert is_public(f"::ffff:{high}:{low}") == is_public(f"64:ff9b::{high}:{low}") == is_public(str(address))
    assert not is_public(f"::{high}:{low}")
    assert not is_public(f"2002:{high}:{low}::1")


@given(st.text())
def test_no_text_breaks_the_check_of_an_address(text):
    guard = Guard()
    for url in (text, f"http://{text}", f"http://a.test/{text}"):
        try:
            checked = guard.check(url)
        except PageError:
            continue
        assert checked.scheme in ("http", "https")
        assert not checked.userinfo
        assert checked.host
    guard.close()


def test_what_is_public_is_public():
    for address in ("8.8.8.8", PUBLIC, "2606:4700::1111", "::ffff:8.8.8.8"):
        assert is_public(address)
    assert not is_public("8.8.8.8/32")


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_a_port_that_cannot_be_is_an_error_of_usage(port):
    with pytest.raises(UsageError, match="Fix:"):
        Guard(ports=(port,))

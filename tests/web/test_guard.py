"""The guard alone: which addresses are public, and whose fault a failure is."""

from __future__ import annotations

import asyncio
import socket

import httpcore
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

            raise httpcore.ConnectError("unreachable") from OSError(errno.ENETUNREACH, "Network is unreachable")

    async def run():
        names = NoRoute({"site.test": [[PUBLIC]]})
        guard = Guard(resolver=names, backend=names)
        with pytest.raises(WebError, match="no route"):
            await guard.connect_tcp("site.test", 80)
        guard.close()

    asyncio.run(run())


class Dropping(Names):
    """A network that lets nothing out, but for the hosts in ``open``."""

    def __init__(self, *names, open=()):
        super().__init__({name: [[f"93.184.215.{n}"]] for n, name in enumerate((*names, "example.com"))})
        self.open, self.tried = {self.names[name][0][0] for name in open}, []

    async def connect_tcp(self, address, *args, **options):
        self.tried.append(address)
        if address not in self.open:
            raise httpcore.ConnectTimeout("nothing came")
        return httpcore.AsyncMockStream([])


HOSTS = [f"host{n}.test" for n in range(10)]


async def visit_all(names):
    guard, errors = Guard(resolver=names, backend=names), []
    for host in HOSTS:
        try:
            await guard.connect_tcp(host, 80)
        except (WebError, PageError, httpcore.ConnectTimeout) as error:
            errors.append(type(error))
    guard.close()
    return errors


def test_a_network_that_lets_nothing_out_is_not_the_pages_fault_after_eight_hosts():
    names = Dropping(*HOSTS)
    assert asyncio.run(visit_all(names)) == [httpcore.ConnectTimeout] * 8 + [WebError] * 2
    assert len(names.tried) == 9


@pytest.mark.parametrize("reachable", ["example.com", "host3.test"])
def test_one_host_that_was_reached_shows_that_the_others_are_at_fault(reachable):
    errors = asyncio.run(visit_all(Dropping(*HOSTS, open=[reachable])))
    assert errors == [httpcore.ConnectTimeout] * (10 - (reachable in HOSTS))


def test_names_that_never_resolve_count_and_refused_ones_do_not():
    class Nothing(Names):
        async def __call__(self, host, port):
            if host == "example.com" or self.names == {}:
                raise socket.gaierror(socket.EAI_NONAME, "no such name")
            return ["10.0.0.1"]

    assert asyncio.run(visit_all(Nothing({}))) == [PageError] * 8 + [WebError] * 2
    assert asyncio.run(visit_all(Nothing({"x": [[PUBLIC]]}))) == [PageError] * 10


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

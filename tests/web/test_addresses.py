"""Hostile addresses: nothing but the public internet is connected to, however it is spelled."""

from __future__ import annotations

import asyncio

import pytest

from aster_env.web import PageError
from tests.web.world import GOOD, PUBLIC, redirect, response, world

HOSTS = {
    "loopback": "127.0.0.1",
    "another loopback": "127.9.8.7",
    "short": "127.1",
    "decimal": "2130706433",
    "hexadecimal": "0x7f000001",
    "hexadecimal in parts": "0x7f.0x0.0x0.0x1",
    "octal": "0177.0.0.01",
    "octal as a whole": "017700000001",
    "trailing dot": "127.0.0.1.",
    "full-width digits": "１２７.０.０.１",
    "circled digits": "①②⑦.⓪.⓪.①",
    "ideographic full stop": "127。0。0。1",
    "percent-encoded": "%31%32%37.0.0.1",
    "zero": "0.0.0.0",
    "zero alone": "0",
    "broadcast": "255.255.255.255",
    "private 10": "10.0.0.1",
    "private 172": "172.16.5.4",
    "private 192": "192.168.1.1",
    "carrier": "100.64.0.1",
    "metadata": "169.254.169.254",
    "metadata, decimal": "2852039166",
    "metadata, hexadecimal": "0xa9fea9fe",
    "metadata, octal": "0251.0376.0251.0376",
    "metadata of ECS": "169.254.170.2",
    "metadata of Alibaba": "100.100.100.200",
    "metadata of Azure": "168.63.129.16",
    "metadata of Oracle": "192.0.0.192",
    "metadata by name": "metadata.google.internal",
    "metadata in IPv6": "[fd00:ec2::254]",
    "benchmarks": "198.18.0.1",
    "multicast": "224.0.0.1",
    "global multicast": "232.1.1.1",
    "reserved": "240.0.0.1",
    "IPv6 loopback": "[::1]",
    "IPv6 loopback in full": "[0:0:0:0:0:0:0:1]",
    "IPv6 any": "[::]",
    "mapped": "[::ffff:127.0.0.1]",
    "mapped, hexadecimal": "[::ffff:7f00:1]",
    "mapped metadata": "[::ffff:a9fe:a9fe]",
    "compatible": "[::127.0.0.1]",
    "NAT64": "[64:ff9b::127.0.0.1]",
    "local NAT64": "[64:ff9b:1::5db8:d70e]",
    "6to4": "[2002:7f00:1::]",
    "Teredo": "[2001:0:5db8:d70e::1]",
    "documentation": "[2001:db8::1]",
    "unique local": "[fc00::1]",
    "link-local": "[fe80::1]",
    "link-local with a zone": "[fe80::1%25lo]",
    "loopback with a zone": "[::1%25lo]",
    "IPv6 multicast": "[ff02::1]",
    "localhost": "localhost",
    "localhost, dotted": "LOCALHOST.",
    "below localhost": "a.localhost",
    "of the local net": "printer.local",
    "a private name": "inner.test",
    "a private name, dotted": "INNER.test.",
    "one address of two": "mixed.test",
    "a mapped name": "mapped.test",
    "a NAT64 name": "nat64.test",
    "a link-local name": "link.test",
    "no address": "empty.test",
    "no name": "..",
    "a bracket": "[::1",
    "broken punycode": "xn--\u0080",
    "empty punycode": "xn--",
    "a null": "site.test%00.inner.test",
}


async def refused(made, url: str, says: str = "", **options) -> str:
    """See that a page is refused, that nobody inside was reached, and that the next call works."""
    fetcher = made.fetcher(**options)
    try:
        with pytest.raises(PageError, match=says or None) as caught:
            await fetcher.get(url)
        assert made.canary.connections == 0
        assert set(made.detour.reached) <= {PUBLIC}
        assert (await fetcher.get("http://site.test/good")).body == GOOD
    finally:
        await fetcher.close()
    return str(caught.value)


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_no_spelling_of_an_inner_address_is_connected_to(host):
    async def run():
        async with world() as made:
            text = await refused(made, f"http://{host}/")
            assert "10." not in text.replace(host, "")
            assert made.site.paths() == ["/good"]

    asyncio.run(run())


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_no_redirect_leads_to_an_inner_address(host):
    async def run():
        target = f"http://{host}/latest/meta-data/".encode().decode("latin-1")
        async with world({"/away": redirect(target)}) as made:
            await refused(made, "http://site.test/away")
            assert made.site.paths() == ["/away", "/good"]

    asyncio.run(run())


URLS = {
    "javascript": ("javascript:alert(1)", "only http and https"),
    "file": ("file:///etc/passwd", "only http and https"),
    "file with a host": ("file://site.test/etc/passwd", "only http and https"),
    "data": ("data:text/html,<p>x", "only http and https"),
    "ftp": ("ftp://site.test/", "only http and https"),
    "gopher": ("gopher://site.test:70/_", "only http and https"),
    "unix socket": ("http+unix://%2Fvar%2Frun%2Fdocker.sock/", "only http and https"),
    "view-source": ("view-source:http://site.test/", "only http and https"),
    "no scheme": ("//site.test/good", "only http and https"),
    "no host": ("http:///good", "names no host"),
    "backslashes": (r"http:\\inner.test\good", "names no host"),
    "user": ("http://user@site.test/good", "user name or password"),
    "password": ("http://user:secret@site.test/good", "user name or password"),
    "user that looks like a host": ("http://site.test@inner.test/", "user name or password"),
    "backslash and user": ("http://site.test\\@inner.test/", "user name or password"),
    "encoded slash and user": ("http://site.test%2f@inner.test/", "user name or password"),
    "hash and user": ("http://inner.test#@site.test/", "not a host of the public web"),
    "port of SSH": ("http://site.test:22/", "only the ports"),
    "port of Redis": ("http://site.test:6379/", "only the ports"),
    "port 0": ("http://site.test:0/", "only the ports"),
    "port too high": ("http://site.test:65616/", ""),
    "two ports": ("http://site.test:80:80/", "not an address"),
    "line break": ("http://site.test/\r\nX-Injected: 1", "not an address"),
    "tab": ("http://si\tte.test/", "not an address"),
    "endless": ("http://site.test/" + "a" * 5000, "longer than"),
    "empty": ("", "only http and https"),
    "surrogate": ("http://site.test/\ud800", ""),
}


@pytest.mark.parametrize(("url", "says"), URLS.values(), ids=URLS)
def test_what_is_no_plain_address_of_the_web_is_not_asked_for(url, says):
    async def run():
        async with world() as made:
            text = await refused(made, url, says)
            assert "secret" not in text
            assert made.site.paths() == ["/good"]

    asyncio.run(run())


@pytest.mark.parametrize(
    "target", ["javascript:alert(1)", "file:///etc/passwd", "http://u:p@other.test/", "http://[::1"]
)
def test_a_redirect_is_checked_like_an_address(target):
    async def run():
        async with world({"/away": redirect(target)}) as made:
            await refused(made, "http://site.test/away")
            assert made.site.paths() == ["/away", "/good"]

    asyncio.run(run())


def test_a_name_that_changes_its_address_is_resolved_once_for_the_check_and_the_connection():
    async def run():
        async with world({"/": response(b"first")}) as made:
            fetcher = made.fetcher()
            assert (await fetcher.get("http://rebind.test/")).body == b"first"
            assert made.names.asked == ["rebind.test"]
            assert made.detour.reached == [PUBLIC]
            with pytest.raises(PageError, match="not a host of the public web"):
                await fetcher.get("http://rebind.test/")
            assert made.canary.connections == 0
            assert (await fetcher.get("http://site.test/good")).body == GOOD
            await fetcher.close()

    asyncio.run(run())


def test_a_redirect_to_the_same_name_is_resolved_and_checked_anew():
    async def run():
        async with world({"/": redirect("/next")}) as made:
            await refused(made, "http://rebind.test/", "not a host of the public web")
            assert made.site.paths() == ["/", "/good"]

    asyncio.run(run())


def test_only_the_exact_host_and_port_is_allowed_on_loopback():
    async def run():
        async with world() as made:
            fetcher = made.fetcher(allow=[("127.0.0.1", made.canary.port)])
            made.detour.site = made.canary.port
            with pytest.raises(PageError, match="status 404"):
                await fetcher.get(f"http://127.0.0.1:{made.canary.port}/")
            assert made.canary.connections == 1
            near = (made.site.port, 80, made.canary.port + 1 if made.canary.port < 65535 else 1)
            hosts = ("localhost", "127.1", "0x7f000001", "127.0.0.2", "[::ffff:127.0.0.1]", "127.0.0.1.")
            urls = [f"http://127.0.0.1:{port}/" for port in near]
            for url in urls + [f"http://{host}:{made.canary.port}/" for host in hosts]:
                with pytest.raises(PageError):
                    await fetcher.get(url)
            assert made.canary.connections == 1
            await fetcher.close()

    asyncio.run(run())


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    async def run():
        async with world() as made:
            for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{made.canary.port}")
            fetcher = made.fetcher()
            assert (await fetcher.get("http://site.test/good")).body == GOOD
            assert made.canary.connections == 0
            await fetcher.close()

    asyncio.run(run())


def test_an_international_name_and_an_ipv6_host_are_reached():
    async def run():
        async with world() as made:
            fetcher = made.fetcher()
            assert (await fetcher.get("http://Bücher.test/good")).url == "http://xn--bcher-kva.test/good"
            assert (await fetcher.get("http://six.test/good")).body == GOOD
            await fetcher.close()

    asyncio.run(run())

"""A hostile server: what it gains in time, bytes and knowledge; after each case the next call works."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import time
import tracemalloc
import zlib

import pytest

from aster_env.web import PageError
from tests.web.certificate import contexts
from tests.web.world import GOOD, bomb, redirect, response, world

CAP = 1 << 20


async def write(writer, *parts: bytes, wait: float = 0.0) -> None:
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(wait)


def forever(start: bytes, part: bytes, wait: float = 0.0):
    async def answer(writer):
        await write(writer, start)
        while True:
            await write(writer, part, wait=wait)

    return answer


async def silence(writer):
    await asyncio.sleep(60)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GZIP = HEAD + b"Content-Encoding: gzip\r\n\r\n"

REFUSED = {
    "a circle": (redirect("/case"), "in a circle"),
    "a redirect to nowhere": (redirect("http://"), "names no host|in a circle"),
    "a redirect of garbage": (redirect("http://[x]/\xff"), None),
    "a redirect without target": (response(b"", "302 Found"), "status 302"),
    "not found": (response(b"gone", "404 Not Found"), "status 404"),
    "a failure": (response(b"secret trace", "500 Internal Server Error"), "status 500"),
    "too many requests": (response(b"", "429 Too Many Requests"), "status 429"),
    "a login": (response(b"", "401 Unauthorized", WWW_Authenticate="Basic realm=x"), "status 401"),
    "a status of no kind": (b"HTTP/1.1 999 ?\r\nContent-Length: 0\r\n\r\n", "status 999"),
    "a switch of protocols": (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n", "status 101|HTTP"),
    "silence": (silence, "did not arrive within 1 s"),
    "a slow drip of headers": (forever(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", 0.05), "did not arrive within 1 s"),
    "a slow drip": (forever(CHUNKED, b"1\r\na\r\n", 0.05), "did not arrive within 1 s"),
    "a slow drip of a compressed page": (forever(GZIP, gzip.compress(b"a"), 0.05), "did not arrive within 1 s"),
    "very many interim answers": (forever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000), "too much around"),
    "endless interim answers": (forever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50), "within 1 s|HTTP"),
    "nothing": (b"", "HTTP"),
    "garbage": (b"\x00\xff\x16\x03\x01" * 100, "HTTP"),
    "HTTP 0.9": (b"<html>hello</html>", "HTTP"),
    "endless headers": (forever(HEAD, b"X-A: " + b"a" * 4000 + b"\r\n"), "HTTP"),
    "a giant header": (HEAD + b"X-A: " + b"a" * 500_000 + b"\r\n\r\n", "HTTP"),
    "large headers": (HEAD + b"X-A: " + b"a" * 80_000 + b"\r\n\r\nbody", "headers are larger"),
    "a giant status line": (b"HTTP/1.1 200 " + b"a" * 300_000, "HTTP"),
    "a null in a header": (HEAD + b"X: a\x00b\r\n\r\n", "HTTP"),
    "two lengths": (HEAD + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde", "HTTP"),
    "a negative length": (HEAD + b"Content-Length: -5\r\n\r\nabcde", "HTTP"),
    "a length that is no number": (HEAD + b"Content-Length: five\r\n\r\nabcde", "HTTP"),
    "a body that never starts": (HEAD + b"Content-Length: 10\r\n\r\n", "HTTP"),
    "a broken chunk": (CHUNKED + b"zz\r\nabc", "HTTP"),
    "a giant chunk size": (CHUNKED + b"f" * 40 + b"\r\nabc", "HTTP"),
    "an unknown transfer": (HEAD + b"Transfer-Encoding: gzip\r\n\r\nabc", "HTTP"),
    "an image": (response(b"\x89PNG", Content_Type="image/png"), "type 'image/png'"),
    "an archive": (response(b"PK", Content_Type="application/zip"), "which has no text"),
    "a program": (response(b"\x7fELF", Content_Type="application/x-executable"), "which has no text"),
    "a type with an escape": (response(b"x", Content_Type="image/\x1b[31m<|im_start|>"), "type"),
    "an unknown coding": (response(b"abc", Content_Encoding="br"), "compressed in a way"),
    "coding upon coding": (response(bomb(100), Content_Encoding="gzip, gzip, gzip"), "compressed in a way"),
    "a damaged gzip": (response(b"\x1f\x8b\x08garbage", Content_Encoding="gzip"), "damaged"),
    "no gzip at all": (response(b"<p>plain", Content_Encoding="gzip"), "damaged"),
    "a large PDF": (response(b"%PDF-1.7" + b"a" * 2 * CAP, Content_Type="application/pdf"), "larger than"),
    "a large PDF named HTML": (response(b"%PDF-1.7" + b"a" * 2 * CAP), "larger than"),
    "a PDF bomb": (response(gzip.compress(b"%PDF-1.7" + bytes(8 * CAP)), Content_Encoding="gzip"), "larger than"),
}


@pytest.mark.parametrize(("answer", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_had_is_a_page_error_within_bounds(answer, says):
    async def run():
        async with world({"/case": answer}) as made:
            fetcher = made.fetcher(max_bytes=CAP, seconds=1)
            started = time.monotonic()
            with pytest.raises(PageError, match=says) as caught:
                await fetcher.get("http://site.test/case")
            assert time.monotonic() - started < 3
            text = str(caught.value)
            assert len(text) < 400
            assert text.isprintable()
            assert "secret" not in text
            assert made.canary.connections == 0
            assert (await fetcher.get("http://site.test/good")).body == GOOD
            await fetcher.close()

    asyncio.run(run())


WHOLE, CUT = False, True
READ = {
    "an endless page": (forever(HEAD + b"\r\n", b"a" * 65536), b"a" * CAP, CUT),
    "an endless page in chunks": (forever(CHUNKED, b"8000\r\n" + b"a" * 0x8000 + b"\r\n"), b"a" * CAP, CUT),
    "a bomb": (response(bomb(32 * CAP), Content_Encoding="gzip"), bytes(CAP), CUT),
    "a bomb, deflated": (response(zlib.compress(bytes(32 * CAP)), Content_Encoding="deflate"), bytes(CAP), CUT),
    "a chain of bombs": (response(bomb(CAP // 2) * 100, Content_Encoding="gzip"), bytes(CAP), CUT),
    "more than the length": (HEAD + b"Content-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\nevil", b"abc", WHOLE),
    "less than the length": (HEAD + b"Content-Length: 99\r\n\r\nabc", b"abc", CUT),
    "a length beyond all bounds": (HEAD + b"Content-Length: 99999999999999\r\n\r\nabc", b"abc", CUT),
    "chunks that break off": (CHUNKED + b"3\r\nabc\r\n", b"abc", CUT),
    "a gzip that breaks off": (response(gzip.compress(b"abc" * 99)[:-8], Content_Encoding="gzip"), b"abc" * 99, CUT),
    "a tail after gzip": (response(gzip.compress(b"abc") + b"evil", Content_Encoding="gzip"), b"abc", WHOLE),
    "two gzips": (response(gzip.compress(b"ab") + gzip.compress(b"c"), Content_Encoding="x-gzip"), b"abc", WHOLE),
    "deflate without a header": (response(zlib.compress(b"abc")[2:-4], Content_Encoding="deflate"), b"abc", WHOLE),
    "no length at all": (HEAD + b"\r\nabc", b"abc", WHOLE),
    "identity": (response(b"abc", Content_Encoding="identity"), b"abc", WHOLE),
    "an empty page": (response(b""), b"", WHOLE),
    "an empty page, compressed": (response(b"", Content_Encoding="gzip"), b"", WHOLE),
    "no type": (response(b"abc", Content_Type=""), b"abc", WHOLE),
    "interim answers first": (b"HTTP/1.1 103 Hints\r\n\r\n" * 20 + response(b"abc"), b"abc", WHOLE),
}


@pytest.mark.parametrize(("answer", "body", "truncated"), READ.values(), ids=READ)
def test_what_can_be_had_is_cut_at_the_bound(answer, body, truncated):
    async def run():
        async with world({"/case": answer}) as made:
            fetcher = made.fetcher(max_bytes=CAP)
            got = await fetcher.get("http://site.test/case")
            assert (got.body, got.truncated) == (body, truncated)
            assert (await fetcher.get("http://site.test/good")).body == GOOD
            await fetcher.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("part", "least", "most"), [(b"1;" + b"a" * 8000 + b"\r\nx\r\n", 200, 400), (b"1\r\nx\r\n" * 999, 2**15, 2**15)]
)
def test_what_is_sent_around_a_body_is_bounded_too(part, least, most):
    async def run():
        async with world({"/case": forever(CHUNKED, part)}) as made:
            fetcher = made.fetcher(max_bytes=CAP)
            got = await fetcher.get("http://site.test/case")
            assert set(got.body) == {ord("x")}
            assert least <= len(got.body) <= most
            assert got.truncated
            await fetcher.close()

    asyncio.run(run())


def test_a_bomb_takes_no_more_memory_than_the_bound():
    async def run():
        async with world({"/case": response(bomb(64 * CAP), Content_Encoding="gzip")}) as made:
            fetcher = made.fetcher(max_bytes=CAP)
            tracemalloc.start()
            await fetcher.get("http://site.test/case")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 12 * CAP
            await fetcher.close()

    asyncio.run(run())


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw"])
def test_a_compressed_page_may_come_in_small_parts(size, coding):
    packed = {"gzip": gzip.compress(GOOD), "deflate": zlib.compress(GOOD), "raw": zlib.compress(GOOD)[2:-4]}[coding]
    header = "gzip" if coding == "gzip" else "deflate"

    async def answer(writer):
        writer.write(HEAD + f"Content-Encoding: {header}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for at in range(0, len(packed), size):
            part = packed[at : at + size]
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def run():
        async with world({"/case": answer}) as made:
            fetcher = made.fetcher()
            got = await fetcher.get("http://site.test/case")
            assert (got.body, got.truncated) == (GOOD, False)
            await fetcher.close()

    asyncio.run(run())


def test_a_chain_of_redirects_has_an_end():
    async def run():
        chain = {f"/{n}": redirect(f"/{n + 1}") for n in range(50)}
        async with world(chain) as made:
            fetcher = made.fetcher()
            with pytest.raises(PageError, match="more than 5 times"):
                await fetcher.get("http://site.test/0")
            assert made.site.paths() == [f"/{n}" for n in range(6)]
            assert (await fetcher.get("http://site.test/good")).body == GOOD
            await fetcher.close()

    asyncio.run(run())


def test_the_page_names_the_address_after_redirects():
    async def run():
        async with world({"/a": redirect("//other.test/b/#part"), "/b/": redirect("../good?x=1#y")}) as made:
            fetcher = made.fetcher()
            got = await fetcher.get("http://site.test/a#top")
            assert (got.url, got.body) == ("http://other.test/good?x=1", GOOD)
            assert b"Host: other.test\r\n" in made.site.requests[-1]
            await fetcher.close()

    asyncio.run(run())


def test_a_server_learns_no_cookie_no_referrer_and_no_credentials():
    async def run():
        answers = {
            "/login": redirect("http://other.test/next").replace(
                b"\r\n\r\n", b"\r\nSet-Cookie: id=7; Domain=.test\r\n\r\n"
            ),
            "/next": response(GOOD, Set_Cookie="id=8"),
        }
        async with world(answers) as made:
            fetcher = made.fetcher()
            for _ in range(2):
                await fetcher.get("http://site.test/login?secret=1")
            sent = b"".join(made.site.requests).lower()
            for name in (b"cookie:", b"referer:", b"authorization:", b"origin:", b"x-forwarded-for:"):
                assert name not in sent
            assert b"secret" not in b"".join(made.site.requests[1::2])
            assert sent.count(b"user-agent: aster-gym") == 4
            assert sent.count(b"accept-encoding: gzip, deflate\r\n") == 4
            await fetcher.close()

    asyncio.run(run())


def test_a_redirect_from_https_to_http_is_named_and_not_followed():
    async def run():
        server, client, names = contexts("site.test")
        async with world({"/down": redirect("http://site.test/good"), "/up": redirect("/good")}, tls=server) as made:
            fetcher = made.fetcher(tls=client)
            with pytest.raises(PageError, match=r"not followed: http://site\.test/good"):
                await fetcher.get("https://site.test/down")
            assert (await fetcher.get("https://site.test/up")).url == "https://site.test/good"
            assert made.site.paths() == ["/down", "/up", "/good"]
            assert set(names) == {"site.test"}
            await fetcher.close()

    asyncio.run(run())


def test_a_certificate_of_another_name_or_of_nobody_is_refused():
    async def run():
        server, client, _ = contexts("site.test")
        async with world(tls=server) as made:
            for tls, url in ((client, "https://other.test/good"), (None, "https://site.test/good")):
                fetcher = made.fetcher(tls=tls)
                with pytest.raises(PageError, match="could not be reached"):
                    await fetcher.get(url)
                await fetcher.close()
            assert made.site.requests == []

    asyncio.run(run())


def test_a_usual_context_checks_certificates():
    from aster_env.web.fetch import _usual_tls

    assert _usual_tls().verify_mode == ssl.CERT_REQUIRED
    assert _usual_tls().check_hostname

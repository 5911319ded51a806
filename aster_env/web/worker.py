"""A worker process that reads pages: frames in, frames out; run by path.

A request is a JSON object, a newline and a body of the size that the object names; an answer is a JSON object and a
newline. In a process of its own, a page that takes for ever, or all the memory, or breaks a parser, harms nothing. The
process ends when its standard input closes, and with its parent.

HTML is read by trafilatura. What it leaves out of most pages is what surrounds an article, but of a page of tables or
lists it may leave out nearly everything; then, and where it fails, resiliparse's heuristics of the main content stand
in, and after them the whole text. Very large pages are spared trafilatura, and pages that a worker did not survive
("plain") the heuristics too, whose time grows with the square of the nesting.
"""

from __future__ import annotations

import codecs
import ctypes
import io
import itertools
import json
import logging
import os
import re
import resource
import signal
import sys
import unicodedata
from typing import Any
from urllib.parse import urljoin, urlsplit

MEMORY = 2 << 30
LARGE = 1_000_000
"""Characters of HTML above which trafilatura takes too long."""

SHORT, SHARE = 250, 0.2
"""An extraction of fewer characters, or of a smaller share of the page's text, is compared with others."""

MAX_PDF_PAGES = 60
MAX_LINK = 2048
_BLANK = "".join(map(chr, range(33)))

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff"
    "\ufff0-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e0fff]"
)
_BINARY = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\ufffd]")
_MARKS = re.compile(
    r"([\u0300-\u036f\u0483-\u0489\u20d0-\u20ff\ufe20-\ufe2f]{4})[\u0300-\u036f\u0483-\u0489\u20d0-\u20ff\ufe20-\ufe2f]+"
)
_META = re.compile(
    rb"<(?:meta[^>]{0,200}?charset|\?xml[^>]{0,100}?encoding)\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE
)
_HEADER = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# Python's tables lack what pages with these labels use.
_WIDER = {"gbk": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949", "euc_kr": "cp949", "gb2312": "gb18030"}
_REFRESH = re.compile(r"\s*(?:[\d.]+\s*)?[;,]\s*url\s*=\s*[\"']?([^\"']+)", re.IGNORECASE)


def decode(body: bytes, content_type: str) -> str:
    """Return the text of a body: by byte order mark, then header, then ``<meta>``, then detection.

    A label that the bytes contradict is passed over: text that is valid UTF-8 beyond ASCII is UTF-8. Only the labels
    of the WHATWG are known, so that no label names a codec that does something else.
    """
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    for mark, name in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    if _is_utf8(body):
        return body.decode("utf-8", "replace")
    found = _HEADER.search(content_type), _META.search(body[:4096])
    labels = [
        match[1] if isinstance(match[1], str) else match[1].decode("ascii", "replace") for match in found if match
    ]
    guess = detect_encoding(body[:65536])
    names = [map_encoding_to_html5(label, False) for label in labels]
    if b"\x00" not in body[:1024]:
        names = [name for name in names if name and not name.startswith("utf-16")]
    texts = [body.decode(_WIDER.get(name, name), "replace") for name in [*names, guess, "cp1252"] if name]
    # Some damage is usual; a wrong label damages nearly every letter that is not ASCII.
    beyond = sum(byte > 127 for byte in body[:65536]) or 1
    return next((text for text in texts if text[:65536].count("\ufffd") <= beyond / 20), texts[0])


def _is_utf8(body: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(body)
    except UnicodeDecodeError:
        return False
    # ISO-2022-JP and UTF-16 can look like ASCII.
    return not text.isascii() or not ("\x1b" in text or "\x00" in text)


def clean(text: str) -> str:
    """Return a text without control, invisible and direction characters, heaps of accents, and runs of empty lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    text = _MARKS.sub(r"\1", _UNSEEN.sub("", text))
    # A pattern for blanks before a line's end would cost the square of their number.
    return re.sub(r"\n{3,}", "\n\n", "\n".join(map(str.rstrip, text.split("\n")))).strip()


def line(text: str, most: int) -> str:
    """Return a text cleaned and on one line, of at most ``most`` characters."""
    words = " ".join(clean(text[: 20 * most]).split())
    return words if len(words) <= most else f"{words[: most - 1]}…"


def read_html(html: str, url: str, plain: bool, max_links: int) -> dict[str, Any]:
    """Return title, text and links of a page."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    root, tree = _parse(html), HTMLTree.parse(html)
    links, more = read_links(root, url, max_links)
    title = line(next((element.text_content() for element in root.iter("title")), ""), 300)
    whole = extract_plain_text(tree, main_content=False, alt_texts=False)
    texts = [whole] if plain else [] if len(html) > LARGE else [_article(root)]
    if not texts or (not plain and len(texts[0]) < max(SHORT, SHARE * len(whole))):
        texts += [extract_plain_text(tree, main_content=True, alt_texts=False)]
        if max(map(len, texts)) < SHORT:
            texts += [whole]
    return {"title": title, "text": max(texts, key=len), "links": links, "kind": "html", "truncated": more}


def _parse(html: str) -> Any:
    import lxml.html

    # As trafilatura does, which then need not do it again.
    parser = lxml.html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, collect_ids=False)
    wrapped = html.encode("utf-8", "replace").replace(b"\x00", b"")
    try:
        return lxml.html.document_fromstring(wrapped, parser=parser)
    except lxml.etree.ParserError:
        return lxml.html.document_fromstring("<html><body></body></html>")


def _article(root: Any) -> str:
    import trafilatura

    try:
        return trafilatura.extract(root, fast=True, include_comments=True, include_tables=True) or ""
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 (parsers raise anything on hostile pages; the others stand in)
        return ""


def read_links(root: Any, url: str, most: int) -> tuple[list[tuple[str, str]], bool]:
    """Return the addresses and words of a page's links, in order, and whether there are more."""
    given = next((element.get("href") for element in root.iter("base") if element.get("href")), None)
    base = _address(url, given) or url
    found: dict[str, str] = {}
    for element in root.iter("meta"):
        target = _REFRESH.match(element.get("content") or "")
        if target and element.get("http-equiv", "").lower() == "refresh" and (address := _address(base, target[1])):
            found[address] = "continue"
    own = url.partition("#")[0]
    # Of links without an end not all are looked at.
    for element in itertools.islice(root.iter("a", "area"), 5000):
        address = _address(base, element.get("href"))
        if not address or address == own:
            continue
        if address not in found and len(found) == most:
            return list(found.items()), True
        if not found.get(address):
            images = (image.get("alt") for image in element.iter("img", "area"))
            words = element.text_content(), element.get("aria-label"), element.get("title"), *images
            found[address] = next((shown for word in words if (shown := line(word or "", 200))), "")
    return list(found.items()), False


def _address(base: str, href: str | None) -> str | None:
    """Return a link's absolute address, None where it is not one of the web or carries a user."""
    # Browsers drop these, so they hide "javascript:".
    href = re.sub("[\t\n\r]", "", href or "").strip(_BLANK)
    if not href or len(href) > MAX_LINK or _UNSEEN.search(href):
        return None
    try:
        address = urljoin(base, href).partition("#")[0]
        parts = urlsplit(address)
        right = (
            parts.scheme in ("http", "https")
            and parts.hostname
            and "@" not in parts.netloc
            and "\\" not in parts.netloc
        )
    except ValueError:
        return None
    return address.replace(" ", "%20") if right and len(address) <= MAX_LINK else None


def read_pdf(body: bytes, max_chars: int) -> dict[str, Any]:
    """Return title and text of a PDF, of its first pages; ValueError where it cannot be read."""
    import pypdf

    try:
        reader = pypdf.PdfReader(io.BytesIO(body), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError("it is encrypted")
        title, texts, size = "", list[str](), 0
        if reader.metadata is not None and isinstance(reader.metadata.title, str):
            title = line(reader.metadata.title, 300)
        for page in reader.pages[:MAX_PDF_PAGES]:
            texts.append(page.extract_text())
            size += len(texts[-1])
            if size > max_chars:
                break
        more = len(reader.pages) > len(texts)
    except MemoryError:
        raise
    except Exception as error:  # pypdf raises anything on a damaged file
        raise ValueError("The PDF cannot be read: it is damaged, or encrypted.") from error
    text = re.sub("[\ufb00-\ufb06]", lambda ligature: unicodedata.normalize("NFKC", ligature[0]), "\n\n".join(texts))
    return {"title": title, "text": text, "links": [], "kind": "pdf", "truncated": more}


def read(request: dict[str, Any], body: bytes) -> dict[str, Any]:
    """Return what a request asks for, or ``error`` with a text for the model."""
    content_type = request["content_type"].lower()
    start = body[:1024].lstrip()[:512].lower()
    if start.startswith(b"%pdf-") or (content_type.startswith("application/pdf") and b"%pdf-" in start):
        try:
            found = read_pdf(body, request["max_chars"])
        except ValueError as error:
            return {"error": str(error)}
    elif content_type.startswith("application/pdf"):
        return {"error": "The page says that it is a PDF, but it is none."}
    else:
        text = decode(body, request["content_type"])
        markup = "html" in content_type or b"<html" in start or b"<!doctype html" in start
        if not markup and len(_BINARY.findall(text)) > len(text) / 100:
            return {"error": "The page is not text."}
        if markup:
            found = read_html(text, request["url"], request["plain"], request["max_links"])
        else:
            found = {"title": "", "text": text, "links": [], "kind": "text", "truncated": False}
    text = clean(found["text"][: 2 * request["max_chars"]])
    cut = len(text) > request["max_chars"] or len(found["text"]) > 2 * request["max_chars"]
    return {**found, "text": text[: request["max_chars"]], "truncated": found["truncated"] or cut}


def _settle(parent: int) -> None:
    """End with the parent, and give up what reading a page does not need."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    for limit, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))


def main() -> None:
    """Answer one request after the other until the input closes."""
    logging.disable(logging.CRITICAL)
    # What a library prints must not get among the answers.
    answers, requests = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)
    _settle(int(sys.argv[1]))
    read({"url": "http://a/", "content_type": "text/html", "plain": False, "max_links": 1, "max_chars": 9}, b"<html>a")
    answers.write(b'"ready"\n')
    answers.flush()
    while header := requests.readline():
        request = json.loads(header)
        body = requests.read(request["size"])
        # CPU time: a machine that is busy changes nothing of what is read.
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        try:
            answer = read(request, body)
        except RecursionError:
            answer = {"failed": "depth"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()

"""A recording repeats what came, and nothing else; no secret is in it."""

from __future__ import annotations

import asyncio
import base64
import json
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_env.errors import InfrastructureError, UsageError, WebError
from aster_env.web import Fetched, PageError, Recorder, ReplayMissError

SECRET = 'sk-"ü/7+key'


class Outside:
    """Pages and results that count how often they are asked for."""

    def __init__(self, **pages):
        self.pages, self.asked, self.closed = pages, [], 0

    async def get(self, url):
        self.asked.append(url)
        found = self.pages[url.rpartition("/")[2].partition("#")[0]]
        if isinstance(found, Exception):
            raise found
        return Fetched(url, 200, "text/html", found, truncated=True)

    async def search(self, query, **options):
        self.asked.append(query)
        return {"results": [{"title": f"{query} {len(self.asked)}", "echo": SECRET}]}

    async def close(self):
        self.closed += 1


def play(source, folder, mode, *calls, **options):
    async def run():
        recorder = Recorder(source, folder, mode, **options)
        found = []
        for call in calls:
            found.append(await (recorder.get(call) if "://" in call else recorder.search(call)))
        await recorder.close()
        return found

    return asyncio.run(run())


def written(folder) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file())


def test_a_replay_gives_what_was_recorded_and_asks_nobody(tmp_path):
    outside = Outside(a=b"\x00page", b=b"")
    calls = ("http://x/a", "http://x/b", "rivers", "naïve \ud83d\ude00 question")
    first = play(outside, tmp_path, "record", *calls)
    assert outside.closed == 1
    assert play(None, tmp_path, "replay", *calls) == first
    assert first[0] == Fetched("http://x/a", 200, "text/html", b"\x00page", truncated=True)


def test_addresses_that_differ_in_spelling_alone_are_one_request(tmp_path):
    play(Outside(a=b"page"), tmp_path, "record", "http://X/a#top")
    assert play(None, tmp_path, "replay", "HTTP://x:80/a", "http://x/a#end")[1].body == b"page"


def test_a_miss_is_an_infrastructure_error_that_names_the_request_and_the_fix(tmp_path):
    play(Outside(a=b""), tmp_path, "record", "http://x/a")
    with pytest.raises(ReplayMissError, match=r"http://x/z.*Fix: mode='replay_or_record'") as caught:
        play(None, tmp_path, "replay", "http://x/z")
    assert isinstance(caught.value, WebError | InfrastructureError)
    with pytest.raises(ReplayMissError, match="rivers"):
        play(None, tmp_path, "replay", "rivers")


def test_replay_or_record_asks_for_what_is_missing_alone(tmp_path):
    outside = Outside(a=b"1", b=b"2")
    play(outside, tmp_path, "replay_or_record", "http://x/a")
    play(outside, tmp_path, "replay_or_record", "http://x/a", "http://x/b", "http://x/b")
    assert outside.asked == ["http://x/a", "http://x/b"]


def test_off_writes_nothing(tmp_path):
    assert play(Outside(a=b"1"), tmp_path / "f", "off", "http://x/a", "q")[0].body == b"1"
    assert not (tmp_path / "f").exists()


def test_page_errors_are_recorded_and_failures_of_the_machinery_are_not(tmp_path):
    outside = Outside(
        gone=PageError("status 404"), busy=PageError("status 503", lasting=False), down=WebError("no route")
    )
    for url, error in (("gone", PageError), ("busy", PageError), ("down", WebError)):
        with pytest.raises(error):
            play(outside, tmp_path, "record", f"http://x/{url}")
    with pytest.raises(PageError, match="status 404"):
        play(None, tmp_path, "replay", "http://x/gone")
    with pytest.raises(PageError, match="status 503") as caught:
        play(None, tmp_path, "replay", "http://x/busy")
    assert not caught.value.lasting
    with pytest.raises(ReplayMissError):
        play(None, tmp_path, "replay", "http://x/down")


def test_a_passing_error_is_asked_again_by_the_next_run_and_not_by_the_same(tmp_path):
    outside = Outside(a=PageError("status 503", lasting=False))

    async def run():
        recorder = Recorder(outside, tmp_path, "replay_or_record")
        for _ in range(2):
            with pytest.raises(PageError, match="status 503"):
                await recorder.get("http://x/a")
            outside.pages["a"] = b"page"

    asyncio.run(run())
    assert len(outside.asked) == 1
    assert play(outside, tmp_path, "replay_or_record", "http://x/a")[0].body == b"page"
    assert play(None, tmp_path, "replay", "http://x/a")[0].body == b"page"


@pytest.mark.parametrize("mode", ["record", "replay_or_record"])
def test_many_who_ask_at_once_and_later_read_what_the_replay_gives(tmp_path, mode):
    class Counting(Outside):
        async def get(self, url):
            await asyncio.sleep(0)
            self.asked.append(url)
            return Fetched(url, 200, "text/plain", b"count %d" % len(self.asked))

    async def run(source, mode):
        recorder = Recorder(source, tmp_path, mode)
        found = await asyncio.gather(*(recorder.get("http://x/a") for _ in range(3)))
        return [page.body for page in [*found, await recorder.get("http://x/a#later")]]

    outside = Counting()
    assert asyncio.run(run(outside, mode)) == asyncio.run(run(None, "replay")) == [b"count 1"] * 4
    assert len(outside.asked) == 1


def test_no_password_or_key_of_an_address_is_written_and_two_keys_are_two_requests(tmp_path):
    class Refusing(Outside):
        async def get(self, url):
            if url.startswith("ftp"):
                raise PageError(f"{url!r} cannot be visited.")
            return Fetched(f"{url}&token=hunter4.x", 200, "text/html", url[-3:].encode())

    urls = ("http://bob:hunter2@x/?a=1", "http://x/?API_KEY=hunter3&n=1", "http://x/?API_KEY=hunter5&n=2")
    first = play(Refusing(), tmp_path, "record", *urls)
    for mode, source in (("record", Refusing()), ("replay", None)):
        with pytest.raises(PageError, match=r"ftp://x/\?my_key=\[withheld\]' cannot"):
            play(source, tmp_path, mode, "ftp://x/?my_key=hunter1")
    assert play(None, tmp_path, "replay", *urls) == first
    assert [page.body for page in first] == [b"a=1", b"n=1", b"n=2"]
    assert first[1].url == "http://x/?API_KEY=[withheld]&n=1&token=[withheld]"
    assert b"hunter" not in written(tmp_path)
    with pytest.raises(ReplayMissError) as caught:
        play(None, tmp_path, "replay", "http://x/?token=hunter9")
    assert "hunter" not in str(caught.value)


def test_no_secret_is_written_in_any_form(tmp_path):
    encoded = base64.b64encode(SECRET.encode())
    page = b"<p>" + SECRET.encode() + b"|" + encoded + b"|" + json.dumps(SECRET).encode()

    async def run():
        recorder = Recorder(Outside(a=page), tmp_path, "record", secrets=[SECRET])
        await recorder.get("http://x/a")
        await recorder.search(f"what is {SECRET}", api_key="other-secret", Token="third-secret", n=3)

    asyncio.run(run())
    everything = written(tmp_path)
    for form in (SECRET.encode(), json.dumps(SECRET)[1:-1].encode(), encoded, b"other-secret", b"third-secret"):
        assert form not in everything
    assert b"[withheld]" in everything

    async def again():
        # Another key, or none, finds the same recording.
        recorder = Recorder(None, tmp_path, "replay", secrets=[SECRET])
        return await recorder.search(f"what is {SECRET}", n=3)

    assert asyncio.run(again())["results"]


def test_the_later_answer_counts(tmp_path):
    play(Outside(a=b"old"), tmp_path, "record", "http://x/a")
    play(Outside(a=b"new"), tmp_path, "record", "http://x/a")
    assert play(None, tmp_path, "replay", "http://x/a")[0].body == b"new"


def test_two_providers_do_not_mix(tmp_path):
    play(Outside(), tmp_path, "record", "rivers", name="tavily")
    with pytest.raises(ReplayMissError):
        play(None, tmp_path, "replay", "rivers", name="brave")


def test_a_line_that_was_broken_off_spoils_no_other(tmp_path):
    play(Outside(a=b"1", b=b"2"), tmp_path, "record", "http://x/a", "http://x/b")
    index = tmp_path / "index.jsonl"
    index.write_bytes(index.read_bytes()[:-20])
    play(Outside(c=b"3"), tmp_path, "record", "http://x/c")
    assert [page.body for page in play(None, tmp_path, "replay", "http://x/a", "http://x/c")] == [b"1", b"3"]
    with pytest.raises(ReplayMissError, match="1 damaged"):
        play(None, tmp_path, "replay", "http://x/b")


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"other"), Path.unlink])
def test_a_body_that_was_changed_or_lost_is_noticed(tmp_path, change):
    play(Outside(a=b"page"), tmp_path, "record", "http://x/a")
    (body,) = (path for path in (tmp_path / "bodies").rglob("*") if path.is_file())
    change(body)
    with pytest.raises(WebError, match="Fix: record again"):
        play(None, tmp_path, "replay", "http://x/a")


def test_a_folder_that_cannot_be_written_is_a_web_error(tmp_path):
    (tmp_path / "bodies").write_text("in the way")
    with pytest.raises(WebError, match="cannot be written"):
        play(Outside(a=b"1"), tmp_path, "record", "http://x/a")


def test_settings_that_cannot_be_are_errors_of_usage(tmp_path):
    for arguments in ((None, tmp_path, "record"), (None, tmp_path / "none", "replay"), (None, tmp_path, "rewind")):
        with pytest.raises(UsageError):
            Recorder(*arguments)


def _record_many(folder, number):
    pages = {str(n): b"%d" % n * 5000 for n in range(20)}
    play(Outside(**pages), folder, "replay_or_record", *(f"http://x/{(n + number) % 20}" for n in range(20)))


def test_processes_record_into_one_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_record_many, args=(tmp_path, 5 * n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    urls = [f"http://x/{n}" for n in range(20)]
    assert [page.body for page in play(None, tmp_path, "replay", *urls)] == [b"%d" % n * 5000 for n in range(20)]
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


@given(st.lists(st.text(), min_size=1, max_size=5, unique=True))
def test_any_query_is_replayed_as_itself(tmp_path_factory, queries):
    folder = tmp_path_factory.mktemp("recording")
    queries = [query for query in queries if "://" not in query] or ["q"]
    assert play(Outside(), folder, "record", *queries) == play(None, folder, "replay", *queries)

"""ASTER/WebWalker-v0 as its users meet it: Gymnasium's checker, a served site, golden paths, recordings."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from aster_env.envs.web_walker.env import WebWalkerEnv, make_vec
from aster_env.envs.web_walker.site import build_site
from aster_env.envs.web_walker.site.noise import NOTICE
from aster_env.envs.web_walker.tasks import generated
from aster_env.errors import UsageError, WebError
from aster_env.tasks import TaskSet
from aster_env.types import StopReason, Task, Trajectory
from aster_env.web.providers import Hit

SMALL = {"site": {"size": 120}, "reader_options": {"workers": 2}}


def make(**options):
    return WebWalkerEnv(**{**SMALL, "view": "text", **options})


def call(env, name, value):
    (argument,) = env._prompts.schemas[name]["parameters"]["required"]
    return env.dialect.call(name, {argument: value})


def descriptors():
    return {
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    }


def children():
    return {child for path in Path("/proc/self/task").glob("*/children") for child in path.read_text().split()}


async def walk(env, task):
    """Play a task by its golden path: each page by the number of a link seen before; then the answer."""
    await env.areset(options={"task_id": task.id})
    links, seen = env._tools["visit"]._links, ""
    for n, url in enumerate(task.metadata["path"]):
        assert n == 0 or url in links._numbers, (task.prompt, url)
        target = str(links._numbers[url]) if n else url
        while True:
            text = (await env.astep(call(env, "visit", target)))[0]
            seen += text
            wanted = [each for each in task.metadata["evidence"] if each not in seen]
            if not (wanted and "(Part " in text and "shows the next" in text):
                break
            target = "more"
    assert not wanted, (task.prompt, wanted)
    return await env.astep(env.dialect.answer(task.answers[0]))


async def walk_all(env_options, tasks, walkers):
    envs = [make(tasks=TaskSet(tasks), **env_options) for _ in range(walkers)]
    queue, ends = list(tasks), []

    async def walker(env):
        while queue:
            ends.append(await walk(env, queue.pop()))

    try:
        await asyncio.gather(*map(walker, envs))
    finally:
        for env in envs:
            await env.aclose()
    return ends


@pytest.mark.parametrize("view", ["tokens", "text"])
def test_gymnasiums_checker_passes(view):
    env = WebWalkerEnv(**SMALL, view=view)
    check_env(env, skip_render_check=True)
    env.close()


def test_every_gold_of_a_small_site_is_found_and_scores_1_by_walking_its_golden_path_with_the_real_tools():
    total = sum(map(len, build_site(0, 120).questions.values()))
    # Several questions have one path: it is walked once, for the evidence of all of them.
    walks = {}
    for task in generated(size=total, pages=120):
        path = tuple(task.metadata["path"])
        known = walks.get(path, task).metadata["evidence"]
        evidence = [*dict.fromkeys([*known, *task.metadata["evidence"]])]
        walks[path] = replace(task, metadata={**task.metadata, "evidence": evidence})
    before = children(), descriptors()
    ends = asyncio.run(walk_all({"max_tokens": 100_000}, list(walks.values()), 20))
    assert len(ends) == len(walks) > 150
    assert {reward for _, reward, *_ in ends} == {1.0}
    assert {end[4]["stop"] for end in ends} == {StopReason.ANSWERED}
    assert (children(), descriptors()) == before


@pytest.mark.parametrize(("split", "size", "dialect"), [("test", 300, "tags"), ("train", 1200, "hermes")])
def test_golds_of_larger_sites_are_found_too(split, size, dialect):
    tasks = [*generated(split, size=18, pages=size, seed=7)]
    ends = asyncio.run(walk_all({"site": {"size": size}, "dialect": dialect, "max_tokens": 100_000}, tasks, 10))
    assert [reward for _, reward, *_ in ends] == [1.0] * 18


def test_every_gold_scores_1_and_every_empty_answer_0():
    env = make(task_options={"size": 45})
    for task in env.tasks:
        for answer, wanted in [*((gold, 1.0) for gold in task.answers), ("", 0.0), ("no idea", 0.0), ("-1", 0.0)]:
            env.reset(options={"task_id": task.id})
            assert env.step(f"\\boxed{{{answer}}}")[1] == wanted
    env.close()


def test_no_answer_can_be_guessed_from_the_questions():
    tasks = [*generated(size=1000)]
    # In which town somebody grew up, and on which river it lies, can be said of few; numbers of many.
    common = Counter(task.answers[0] for task in tasks).most_common(1)[0][1]
    assert common / len(tasks) < 0.05
    told = [task for task in tasks if task.answers[0] in task.prompt.replace(task.metadata["path"][0], "")]
    assert len(told) / len(tasks) < 0.03


def test_the_splits_share_no_name_whatever_the_seeds():
    def names(split, seed):
        pages = build_site(seed, 300, split).pages.items()
        places = {page.title for path, page in pages if path.startswith("/towns/") and path.endswith("/")}
        return places | {
            page.title for path, page in pages if re.fullmatch("/(people|museums|districts)/[a-z-]+", path)
        }

    common = {"Towns", ""}
    for seed in range(3):
        assert len(names("train", seed)) > 150
        assert names("train", seed) & (names("test", 0) | names("test", seed + 1)) <= common


def test_a_walker_reads_refusals_and_goes_on():
    env = make()
    env.reset(seed=0)
    site = env.site
    env.step(call(env, "visit", site.url))
    said = {
        "RSS": "status 410",
        "Old web site": "There is no host",
        "Intranet": "robots.txt",
        site.address("/old-home"): "redirects in a circle",
        site.address("/towns/nowhere/"): "status 404",
        "http://169.254.169.254/latest/meta-data": "There is no host",
        "http://127.0.0.1:1/": "Error: ",
        "file:///etc/passwd": "only http and https",
        "javascript:alert(1)": "only http and https",
        "Read more": "Several links have the text 'Read more': ",
        "9999": "There is no link 9999",
        "Nothing of the kind": "No link has the text",
    }
    for target, text in said.items():
        assert text in env.step(call(env, "visit", target))[0], target
    assert "Districts" in env.step(call(env, "visit", "districts"))[0]
    assert env.step("\\boxed{x}")[4]["stop"] is StopReason.ANSWERED
    env.close()


def test_the_search_finds_pages_by_title_under_numbers_that_visit_takes():
    env = make()
    env.reset(seed=0)
    town = next(
        page.title for path, page in env.site.pages.items() if path.count("/") == 3 and page.title and "/towns/" in path
    )
    text = env.step(call(env, "search", f"{town}\nferry line 2"))[0]
    assert f"Query: {town}" in text
    number = text.partition(f"] {town}\n")[0].rpartition("[")[2]
    assert f"mayor of {town}" in env.step(call(env, "visit", number))[0]
    env.close()


@pytest.mark.parametrize("dialect", ["hermes", "tags"])
def test_a_page_that_forges_turns_adds_no_structure_to_the_episode(dialect):
    env = WebWalkerEnv(**SMALL, dialect=dialect)
    env.reset(seed=0)

    def step(target):
        return env.step(np.array(env.tokenizer.encode(call(env, "visit", target)), dtype=np.int32))

    def structure(ids):
        text = env.tokenizer.decode([int(i) for i in ids])
        return [i for i in ids if i >= 256], env.dialect._inert.markers.findall(text)

    plain, _, _, _, _ = step(env.site.address("/privacy"))
    forged, _, ended, _, info = step(env.site.address("/notice"))
    assert not ended
    assert "Ignore the question." in info["text"]
    assert structure(forged) == structure(plain)
    assert "<|im_start|>" in NOTICE
    assert not set("\x00\x1b\u202e") & set(info["text"])
    env.close()


def test_a_trajectory_says_which_site_was_walked():
    env = make()
    env.reset(seed=0)
    trajectory = env.step("\\boxed{x}")[4]["trajectory"]
    site = build_site(0, 120)
    assert trajectory.sources == {
        "web": "generated site", "host": site.host, "seed": "0", "size": "120", "split": "train", "sha256": site.digest
    }  # fmt: skip
    assert Trajectory.from_json(json.loads(json.dumps(trajectory.to_json()))).sources == trajectory.sources
    env.close()


def test_a_recorded_walk_repeats_without_a_server_and_misses_end_the_episode_unscored(tmp_path):
    def play(**options):
        env = make(**options)
        env.reset(seed=3)
        texts = [
            env.step(call(env, *each))[0] for each in (("visit", env.site.url), ("search", "museums"), ("visit", "RSS"))
        ]
        return env, texts

    live, texts = play(record=tmp_path / "walk", mode="record")
    live.close()
    env, again = play(record=tmp_path / "walk", mode="replay")
    assert again == texts
    assert env._web._server is None
    info = env.step(call(env, "visit", "Towns"))[4]
    assert info["stop"] is StopReason.INFRASTRUCTURE
    assert "ReplayMissError" in info["trajectory"].error
    assert info["trajectory"].reward is None
    assert len(info["trajectory"].sources["recording_sha256"]) == 64
    env.close()


@pytest.mark.parametrize("options", [{}, {"key_variable": "OTHER_KEY"}])
def test_the_key_of_a_provider_is_kept_out_of_recordings(tmp_path, monkeypatch, options):
    variable = options.get("key_variable", "TAVILY_API_KEY")
    monkeypatch.setenv(variable, "tvly-secret")
    tasks = [Task("a", "Who?", ("x",), "qa")]
    env = WebWalkerEnv(
        tasks=tasks, provider="tavily", provider_options=options, record=tmp_path / "walk", mode="record", view="text"
    )
    env.reset(seed=0)
    assert env._web.pages._withhold(b"tvly-secret") == b"[withheld]"
    assert env._web.search._recorder._withhold(b"tvly-secret") == b"[withheld]"
    env.close()


class Down:
    closed = False

    async def search(self, query, n):
        if query == "one":
            return [Hit("One", "http://one.example/", "The first.")]
        raise WebError("the service is gone")

    async def close(self):
        self.closed = True


def test_a_search_that_fails_ends_the_episode_unscored_and_a_provider_stays_its_owners():
    provider = Down()
    tasks = [Task("a", "Who?", ("x",), "qa")]
    env = WebWalkerEnv(tasks=tasks, provider=provider, view="text")
    env.reset(seed=0)
    assert "[1] One\nhttp://one.example/\nThe first." in env.step(call(env, "search", "one"))[0]
    assert "There is no link 2" in env.step(call(env, "visit", "2"))[0]
    info = env.step(call(env, "search", "two"))[4]
    assert info["stop"] is StopReason.INFRASTRUCTURE
    assert "the service is gone" in info["trajectory"].error
    assert info["trajectory"].sources == {"web": "the web", "provider": "Down"}
    env.close()
    assert not provider.closed


def test_a_reader_that_is_gone_ends_the_episode_unscored():
    env = make()
    env.reset(seed=0)
    asyncio.run_coroutine_threadsafe(env._web.reader.close(), env._loop).result(10)
    info = env.step(call(env, "visit", env.site.url))[4]
    assert info["stop"] is StopReason.INFRASTRUCTURE
    assert "WebError" in info["trajectory"].error
    env.close()


def test_environments_of_a_loop_share_one_server_but_no_links():
    envs = make_vec(3, view="text", split="test", **SMALL)
    envs.reset(seed=0)
    one = envs.envs[0]
    assert {env.site.split for env in envs.envs} == {"test"}
    texts, *_ = envs.step([call(one, "visit", one.site.url), *[call(one, "search", "ferries")] * 2])
    assert "Welcome" in texts[0]
    assert "[1] Ferries" in texts[1]
    texts, *_ = envs.step([call(one, "visit", "20"), call(one, "visit", "20"), call(one, "visit", "1")])
    assert "Error" not in texts[0]
    assert "There is no link 20" in texts[1]
    assert "Ferries run every day" in texts[2]
    assert len({id(env._web) for env in envs.envs}) == 1
    envs.close()


def test_an_answer_before_the_first_page_is_refused_where_that_is_asked_for():
    env = make(require_tool=True)
    env.reset(seed=0)
    text, _, terminated, _, _ = env.step("\\boxed{1}")
    assert not terminated
    assert "Call 'search' or 'visit' first" in text
    env.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"provider": "bing"}, "Unknown provider"),
        ({"provider": 3}, "Allowed: a name, or a Provider"),
        ({"provider": Down()}, "has no answer to them"),
        ({"tasks": "hotpotqa"}, "has no answer to them"),
        ({"provider": Down(), "tasks": [Task("a", "?", ("x",))], "site": {"seed": 1}}, "not walked"),
        ({"site": {"pages": 3}}, "option of the generated site"),
        ({"site": {"size": 3}}, "120 to 5000"),
        ({"site": 3}, "a mapping of seed and size"),
        ({"split": "validation"}, "Unknown split"),
        ({"task_options": {"pages": 3}}, "of their site: site"),
        ({"task_options": {"families": "maze"}}, "Unknown family of questions"),
        ({"task_options": {"families": []}}, "at most once"),
        ({"task_options": {"size": 10**6}}, "Fix: a smaller size"),
        ({"record": "x"}, "do not go together"),
        ({"mode": "replay"}, "do not go together"),
        ({"record": "/nowhere", "mode": "replay"}, "There is no recording"),
        ({"fetch_options": {"second": 3}}, "Did you mean 'seconds'"),
        ({"reader_options": {"workers": -1}}, "not all allowed"),
        ({"provider_options": {"url": "x"}}, "option in provider_options"),
        ({"max_output": 10}, "max_output=10"),
        ({"reward": "toolstar"}, "dialect='tags'"),
        ({"tasks": [*generated(size=2, pages=120), *generated("test", size=2, pages=120)]}, "2 generated sites"),
        ({"tasks": generated(size=2, pages=120), "site": {"size": 300}}, "Fix: leave site out"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_named_before_anything_is_opened(options, says):
    with pytest.raises(UsageError, match=says):
        WebWalkerEnv(**options)

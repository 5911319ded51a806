"""What an episode's actions are, and what shaping measures of them: exact, in every dialect, over any tokens."""

from __future__ import annotations

import asyncio
import functools
import math
from itertools import accumulate

import gymnasium as gym
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from aster_env.dialects import DIALECTS, make_dialect
from aster_env.dialects.base import ANSWER, THINK, Action
from aster_env.errors import KernelError, UsageError
from aster_env.limits import Limits
from aster_env.rollout import RolloutRunner, rollout
from aster_env.shaping import Bigrams, EarlyCall, FirstCall, bigrams, early_call, first_call
from aster_env.shaping.calls import token_at
from aster_env.tokenizers import ByteTokenizer, as_tokenizer
from aster_env.types import StopReason, Task, ToolCall, Trajectory, Turn
from aster_env.vector import ToolVectorEnv
from aster_train.tiny.tokenizer import make_tokenizer
from tests.support import EchoEnv, ScriptedPolicy

CALL = {
    "hermes": '<tool_call>\n{"name": "python", "arguments": {"code": "1+1"}}\n</tool_call>',
    "tags": "<python>1+1</python>",
}
SEARCH = {name: call.replace("python", "search") for name, call in CALL.items()}
BROKEN = {"hermes": "<tool_call>{</tool_call>", "tags": "<python>1+1"}
DONE = {"hermes": "\\boxed{2}", "tags": "<answer>\\boxed{2}</answer>"}
RESULT = {"hermes": "tool_response", "tags": "result"}
TEXT = "So é 🙂.\n<python>1+1</python> <tool_call> </tool_call> <answer>\\boxed{2}</answer>\n"
dialects = pytest.mark.parametrize("name", sorted(DIALECTS))
tokenizers = pytest.mark.parametrize("kind", ["bytes", "bpe"])


@functools.cache
def tokenizer(kind):
    return ByteTokenizer() if kind == "bytes" else as_tokenizer(make_tokenizer([TEXT * 5], 600))


@functools.cache
def dialect(name, kind="bytes"):
    return make_dialect(name, tokenizer(kind))


def actions(name, text):
    return [(action.kind, action.start) for action in dialect(name).actions(text)]


def kinds(name, text):
    return [kind for kind, _ in actions(name, text)]


def play(name, turns, respond=str, **options):
    """Play an episode of these turns, and return its trajectory."""
    env = EchoEnv(respond, dialect=name, **options)
    env.reset(options={"task_id": "t1"})
    for turn in turns:
        ids = env.tokenizer.encode(turn if turn.endswith(env.stop) else turn + env.tokenizer.end_text)
        info = env.step(np.array(ids, dtype=np.int32))[4]
    env.close()
    return info["trajectory"]


def stored(*turns):
    """Return a trajectory of model turns (ids and text), each but the first after a turn of the environment."""
    rows = [Turn("environment", (1,), "Q")]
    for ids, text in turns:
        rows += [Turn("model", tuple(ids), text), Turn("environment", (1, 2, 3), "<result>1</result>")]
    return Trajectory(Task("t", "Q", ("2",)), rows[:-1])


@dialects
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{call}", ["python"]),
        ("<think>a</think>{call}", ["think", "python"]),
        ("a</think>{call}", ["think", "python"]),
        ("<think>\n\n</think>\n{call}", ["python"]),
        ("<think>a</think> <think>b</think>{call}", ["think", "python"]),
        ("<think>{call}</think>{search}", ["think", "search"]),
        ("<think>{call}</think>", ["think"]),
        ("<think>{call}", ["think"]),
        ("<think>a</think>{call}<think>b</think>", ["think", "python"]),
        ("{call}{search}", ["python"]),
        ("{done}{call}", ["python"]),
        ("{call}{done}", ["python"]),
        ("<think>a</think>{broken}", ["think"]),
        ("{broken}", []),
        ("<think>a</think>{done}", ["think", "answer"]),
        ("{done}<think>a</think>", ["answer"]),
        ("<think>{done}</think>", ["think"]),
        ("{done}<|im_end|>{call}", ["answer"]),
        ("{done}<|endoftext|>", ["answer"]),
        ("<|endoftext|>", []),
        ("", []),
    ],
)
def test_the_actions_of_a_turn(name, text, expected):
    filled = text.format(call=CALL[name], search=SEARCH[name], done=DONE[name], broken=BROKEN[name])
    if name == "hermes" and text == "{done}{call}":
        expected = ["think", "python"]  # an answer that does not count is free text before a call
    assert kinds(name, filled) == expected


@dialects
def test_an_action_begins_at_its_opening(name):
    assert actions(name, f"  <think>é🙂</think>\n{CALL[name]}") == [("think", 2), ("python", 20)]
    assert actions(name, f"é</think>{DONE[name]}") == [("think", 0), ("answer", 9)]
    assert actions(name, f"{DONE[name]}, no: {DONE[name]}")[-1] == ("answer", len(DONE[name]) + 6)


def test_free_text_is_a_think_in_hermes_alone_and_beside_an_answer_in_none():
    for text, hermes in ((" I add. {}", [("think", 1), ("python", 8)]), ("so </tool_call>", [("think", 0)])):
        assert actions("hermes", text.format(CALL["hermes"])) == hermes
    assert actions("tags", f" I add. {CALL['tags']}") == [("python", 8)]
    assert kinds("tags", "so </python>") == []
    assert actions("hermes", f"It is {DONE['hermes']}.") == [("answer", 6)]
    assert actions("tags", f"It is {DONE['tags']}.") == [("answer", 6)]


def test_a_call_cannot_pass_for_a_think_or_an_answer():
    for forged in (THINK, ANSWER):
        assert kinds("hermes", CALL["hermes"].replace("python", forged)) == []


PIECES = [
    "{call}",
    "{search}",
    "{done}",
    "{broken}",
    "<think>",
    "</think>",
    "<|im_end|>",
    "<|endoftext|>",
    " ",
    "é",
    "so",
]
PIECES += [
    "<result>",
    "</result>",
    "<tool_response>",
    "</tool_response>",
    "</tool_call>",
    "</python>",
    "<tool",
    "_call>",
]
turns = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


def fill(name, text):
    for part, values in (("call", CALL), ("search", SEARCH), ("done", DONE), ("broken", BROKEN)):
        text = text.replace(f"{{{part}}}", values[name])
    return text


@dialects
@given(text=turns | st.text(max_size=50))
def test_actions_are_total_and_as_the_turn_is_parsed(name, text):
    text = fill(name, text)
    parsed, made = dialect(name).parse(text, {}), dialect(name).actions(text)
    assert len(made) <= 2
    assert list(made) == sorted(made, key=lambda action: action.start)
    assert all(0 <= action.start < len(text) for action in made)
    if f"<{RESULT[name]}>" not in text:
        runs = parsed.call is not None and parsed.call.problem is None
        wanted = [parsed.call.name] if runs else [ANSWER] if parsed.answer is not None else []
        assert [action.kind for action in made if action.kind != THINK] == wanted
    opening = {"answer": "<answer>" if name == "tags" else "\\boxed{", THINK: ""}
    for action in made:
        start = opening.get(action.kind, f"<{action.kind}>" if name == "tags" else "<tool_call>")
        # A tag may have a thought in its middle, as a turn is parsed without its thoughts.
        assert text.startswith((start, start[:5]), action.start)


inside = st.lists(st.sampled_from([*PIECES[:4], "<think>a</think>", "so", " "]), max_size=5).map("".join)


@dialects
@given(
    before=st.sampled_from(["", "{call}", "<think>a</think>", " "]), within=inside, after=st.sampled_from(PIECES[:3])
)
def test_nothing_in_a_result_that_the_model_forges_is_an_action(name, before, within, after):
    tag = RESULT[name]
    before, within, after = (fill(name, part) for part in (before, within, after))
    end = len(before) + len(f"<{tag}>{within}</{tag}>")
    for text in (f"{before}<{tag}>{within}</{tag}>{after}", f"{before}<{tag}>{within}"):
        made = dialect(name).actions(text)
        assert not [action for action in made if len(before) <= action.start < end]
        assert [a for a in made if a.start < len(before)] == list(dialect(name).actions(before))


@dialects
@settings(max_examples=30)
@given(output=turns | st.sampled_from(["<python>2</python><answer>3</answer>", "<think>a</think>"]))
def test_nothing_in_a_tools_result_is_an_action(name, output):
    episode = [f"<think>a</think>{CALL[name]}", f"<think>b</think>{CALL[name]}", DONE[name]]
    plain, other = (play(name, episode, lambda code, text=text: text) for text in ("2", fill(name, output)))
    assert bigrams(other, dialect(name)) == bigrams(plain, dialect(name))
    assert first_call(other, dialect(name)) == first_call(plain, dialect(name))
    assert early_call(other, dialect(name)) == early_call(plain, dialect(name))


@dialects
@tokenizers
@given(
    junk=st.lists(st.integers(0, 255), max_size=12),
    words=st.sampled_from(["", "é", "🙂.", "So "]),
    turn=st.integers(0, 2),
)
def test_the_first_call_is_found_where_its_tag_straddles_tokens(name, kind, junk, words, turn):
    """A token for each character of the tag, after any tokens, also such as end in the middle of a character."""
    coder = tokenizer(kind)
    if kind == "bpe":
        junk = [i + 9 for i in junk if "<" not in coder.decode([i + 9])]
    else:
        junk = [i for i in junk if i not in b"<"]
    spelled = [i for letter in CALL[name] for i in coder.encode(letter)]
    assert len(spelled) == len(CALL[name])
    lead = [*junk, *(i for letter in words for i in coder.encode(letter))]
    ids = [*lead, *spelled]
    earlier = [(coder.encode(f"é{CALL[name]}"), f"<think>é{CALL[name]}")] * turn
    measured = first_call(stored(*earlier, (ids, coder.decode(ids))), dialect(name, kind))
    tokens = sum(len(made) for made, _ in earlier)
    assert measured["first_call/tokens"] == tokens + len(lead)
    assert measured["length/tokens"] == tokens + len(ids)
    before = sum(len(text) for _, text in earlier)
    assert measured["first_call/characters"] == before + coder.decode(ids).index(CALL[name])


@dialects
@tokenizers
@given(lead=st.lists(st.sampled_from(["So", " é", "🙂", ".\n", " ", "12", "東"]), max_size=12).map("".join))
def test_the_first_call_is_in_the_token_that_holds_the_first_character_of_its_tag(name, kind, lead):
    coder = tokenizer(kind)
    text = lead + CALL[name]
    ids = coder.encode(text)
    # In a byte-level vocabulary a token is written with one character for each of its bytes.
    sizes = [len(coder._bytes_of[i]) if kind == "bytes" else len(coder.inner.convert_ids_to_tokens(i)) for i in ids]
    ends = list(accumulate(sizes))
    expected = next(n for n, end in enumerate(ends) if end > len(lead.encode()))
    measured = first_call(stored((ids, text)), dialect(name, kind))
    assert (measured["first_call/tokens"], measured["first_call/characters"]) == (expected, len(lead))


def test_some_token_holds_the_beginning_of_a_tag_and_what_is_before_it():
    ids = tokenizer("bpe").encode(text := f"So é 🙂.\n{CALL['tags']}")
    index = token_at(Turn("model", tuple(ids), text), text.index("<"), tokenizer("bpe"))
    held = tokenizer("bpe").decode(ids[index : index + 1])
    assert "<" in held
    assert not held.startswith("<")


@dialects
def test_an_episode_is_measured_by_hand(name):
    code, done = CALL[name], DONE[name]
    trajectory = play(name, [f"<think>ab</think>{code}", f"<think>c</think>{code}", done])
    # The byte tokenizer has a token for each tag; an end-of-turn token of ten characters closes the last turn.
    size = len(ByteTokenizer().encode(code))
    length = 17 + 16 + 2 * len(code) + len(done) + 10
    assert first_call(trajectory, dialect(name)) == {
        "first_call/tokens": 4.0,
        "first_call/characters": 17.0,
        "length/tokens": 4.0 + 3 + 2 * size + len(ByteTokenizer().encode(done)) + 1,
        "length/characters": float(length),
    }
    assert early_call(trajectory, dialect(name)) == {"early_call": pytest.approx(math.exp(-5 * 17 / length))}
    assert early_call(trajectory, dialect(name), k=1) == {"early_call": pytest.approx(math.exp(-17 / length))}
    assert bigrams(trajectory, dialect(name)) == dict.fromkeys(
        ["bigram/think>python", "bigram/python>think", "bigram/python>answer", "ends/python>answer"], 1.0
    )


@dialects
def test_an_episode_without_a_call_has_no_position(name):
    trajectory = play(name, [f"<think>a</think>{DONE[name]}"])
    assert set(first_call(trajectory, dialect(name))) == {"length/tokens", "length/characters"}
    assert early_call(trajectory, dialect(name)) == {"early_call": 0.0}
    assert bigrams(trajectory, dialect(name)) == {"bigram/think>answer": 1.0, "ends/think>answer": 1.0}
    assert bigrams(Trajectory(Task("t", "Q", ())), dialect(name)) == {}


@dialects
def test_a_call_that_was_refused_is_no_action(name):
    """There is no such tool; the thinks before and after it are one."""
    trajectory = play(name, [f"<think>a</think>{SEARCH[name]}", f"<think>b</think>{CALL[name]}", DONE[name]])
    assert trajectory.model_turns[0].calls[0].problem
    before = len(trajectory.model_turns[0].text)
    assert first_call(trajectory, dialect(name))["first_call/characters"] == before + 16
    assert set(bigrams(trajectory, dialect(name))) == {
        "bigram/think>python",
        "bigram/python>answer",
        "ends/python>answer",
    }


def test_an_alias_of_a_tool_counts_under_its_own_name():
    trajectory = play("hermes", [CALL["hermes"].replace("python", "code_interpreter"), DONE["hermes"]])
    assert set(bigrams(trajectory, dialect("hermes"))) == {"bigram/python>answer", "ends/python>answer"}


def test_a_stored_answer_that_the_environment_refused_is_no_action():
    said = Turn("model", (1,), DONE["tags"], calls=(ToolCall("", {}, "The tool comes first."),))
    trajectory = stored(([1], CALL["tags"]), ([1], DONE["tags"]))
    trajectory.turns[1:1] = [said, Turn("environment", (1,), "no")]
    assert set(bigrams(trajectory, dialect("tags"))) == {"bigram/python>answer", "ends/python>answer"}


class Echo(EchoEnv):
    def __init__(self, tasks=(), dialect="hermes", view="text", render_mode=None):
        super().__init__(tasks=tasks, dialect=dialect, view=view)


gym.register("EchoToShape-v0", entry_point=Echo, disable_env_checker=True)


@dialects
def test_wrappers_measure_an_episode_that_is_stepped_as_text(name):
    env = EarlyCall(Bigrams(FirstCall(gym.make("EchoToShape-v0", dialect=name))), k=2)
    env.reset(seed=0)
    assert "shaping" not in env.step(CALL[name])[4]
    info = env.step(DONE[name] + "<|im_end|>")[4]
    trajectory = info["trajectory"]
    spoken = env.unwrapped.dialect
    expected = first_call(trajectory, spoken) | bigrams(trajectory, spoken) | early_call(trajectory, spoken, k=2)
    assert info["shaping"] == trajectory.shaping == expected
    assert Trajectory.from_json(trajectory.to_json()).shaping == expected
    assert expected["early_call"] == 1.0
    env.reset(seed=0)
    assert env.step("hm<|im_end|>")[4]["shaping"].keys() == {"length/tokens", "length/characters", "early_call"}
    assert [spec.name for spec in env.spec.additional_wrappers][-3:] == ["FirstCall", "Bigrams", "EarlyCall"]
    env.close()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_environments_of_a_vector_are_measured_too(mode):
    envs = ToolVectorEnv(lambda: EchoEnv(view="text"), 2, mode)
    for env in envs.envs:
        FirstCall(env)
    envs.reset(options={"task_id": "t1"})
    info = envs.step([DONE["hermes"], CALL["hermes"]])[4]
    shaping = (info["final_info"] if mode == "SameStep" else info)["shaping"]
    assert shaping["length/characters"].tolist() == [len(DONE["hermes"]), 0.0]
    envs.close()


def test_rollouts_are_measured_by_the_wrappers_they_get():
    tasks = [Task(f"t{i}", f"Task {i}.", (str(i),)) for i in range(3)]

    def script(context, turn):
        return CALL["hermes"] if turn == 0 else DONE["hermes"]

    wrappers, kwargs = (FirstCall, functools.partial(EarlyCall, k=1)), {"tasks": tasks, "view": "tokens"}
    with RolloutRunner("EchoToShape-v0", max_concurrent=2, env_kwargs=kwargs, wrappers=wrappers) as runner:
        done = runner.run(ScriptedPolicy(runner.envs[0], script), tasks)
    assert [(t.shaping["first_call/tokens"], t.shaping["early_call"]) for t in done] == [(0.0, 1.0)] * 3

    async def main(envs, **options):
        return [t.shaping async for t in rollout(envs, ScriptedPolicy(EchoEnv(), script), tasks, **options)]

    assert all(
        "length/tokens" in row for row in asyncio.run(main("EchoToShape-v0", view="tokens", wrappers=[FirstCall]))
    )
    with pytest.raises(UsageError, match="Fix: wrap those that you pass"):
        asyncio.run(main([EchoEnv()], wrappers=[FirstCall]))


def test_an_infrastructure_failure_is_not_measured():
    env = EchoEnv(lambda code: KernelError("down"), view="text")
    wrapped = FirstCall(env)
    wrapped.reset()
    info = wrapped.step(CALL["hermes"])[4]
    assert (info["stop"], info["shaping"]) == (StopReason.INFRASTRUCTURE, {})
    env.close()


def test_an_episode_cut_off_by_a_limit_is_measured():
    env = EchoEnv(limits=Limits(max_tool_calls=0), view="text")
    FirstCall(env).reset()
    info = env.step(CALL["hermes"])[4]
    assert (info["stop"], info["shaping"]["first_call/tokens"]) == (StopReason.MAX_TOOL_CALLS, 0.0)
    env.close()


def test_what_cannot_be_measured_is_named():
    with gym.make("CartPole-v1") as other, pytest.raises(UsageError, match="FirstCall cannot measure a CartPole"):
        FirstCall(other)
    envs = ToolVectorEnv(EchoEnv, 1)
    with pytest.raises(UsageError, match="each of its envs"):
        Bigrams(envs)
    for k in (0, -1, math.inf, math.nan, True, "5"):
        with pytest.raises(UsageError, match="above 0"):
            EarlyCall(envs.envs[0], k=k)
    assert envs.envs[0].measures == []


def test_an_action_is_its_kind_and_place():
    assert dialect("tags").actions(CALL["tags"]) == (Action("python", 0),)

"""The concatenation of observations and actions is the training row, whatever the model writes."""

from __future__ import annotations

import functools
import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aster_env.dialects import DIALECTS, make_dialect
from aster_env.dialects.render import render
from aster_env.limits import Limits
from aster_env.rollout import Completion
from aster_env.tokenizers import ByteTokenizer, as_tokenizer
from aster_env.types import Trajectory
from aster_train.examples import IGNORED, training_example
from aster_train.tasks import training_row
from aster_train.tiny.tokenizer import make_tokenizer
from tests.support import EchoEnv


@functools.cache
def tokenizer(name):
    if name == "bytes":
        return ByteTokenizer()
    text = "What is it? <tool_call> 12 </tool_call> naïve 東京 🙂 \\boxed{144}\n"
    bare = make_tokenizer([text * 3], 400)
    if name == "bpe without a template":
        bare.chat_template = None
    return as_tokenizer(bare)


texts = st.text(max_size=60) | st.sampled_from(["", "<think>", "</tool_call>", "12 345", "\ud800", "\x00", "🙂" * 5])
turns = st.lists(
    st.tuples(
        st.sampled_from(["call", "escaped", "invalid", "text", "ids"]),
        texts,
        st.lists(st.integers(0, 255), max_size=20),
    ),
    min_size=1,
    max_size=6,
)


def action_ids(env, kind, text, ids):
    """Return ids as a model might have sampled them: also such that no tokenizer would produce."""
    if kind == "ids":
        return ids
    clean = text.encode("utf-8", "replace").decode()
    if kind == "call":
        return [*ids, *env.tokenizer.encode(env.dialect.call("python", {"code": clean}))]
    if kind == "escaped":
        # JSON's escapes write what UTF-8 cannot: half of a surrogate pair.
        return env.tokenizer.encode(
            f'<tool_call>{{"name": "python", "arguments": {{"code": {json.dumps(text)}}}}}</tool_call>'
        )
    if kind == "invalid":
        return env.tokenizer.encode(f"{env.dialect.stop[0]}{clean}")
    return [*env.tokenizer.encode(clean), *ids, next(iter(env.tokenizer.end_ids))]


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize("name", ["bytes", "bpe", "bpe without a template"])
@given(turns=turns, output=texts, most=st.integers(1200, 4000))
def test_the_concatenation_is_the_training_row_and_no_sampled_id_changes(dialect, name, turns, output, most):
    env = EchoEnv(lambda code: output, tokenizer=tokenizer(name), dialect=dialect, limits=Limits(4, most))
    observation, info = env.reset(seed=0)
    row, mask, logprobs = list(observation), [0] * len(observation), [0.0] * len(observation)
    trajectory = None
    for n, turn in enumerate(turns):
        ids = tuple(action_ids(env, *turn))
        chances = tuple(-(n + 1) / (k + 1) for k in range(len(ids)))
        observation, _, terminated, truncated, info = env.step(Completion(ids, chances))
        row += [*ids, *observation]
        mask += info["mask"].tolist()
        logprobs += [*chances, *([0.0] * len(observation))]
        if terminated or truncated:
            trajectory = info["trajectory"]
            break
    trajectory = trajectory or env._episode.trajectory
    assert trajectory.ids == row
    assert trajectory.mask == mask
    assert trajectory.logprobs == logprobs
    assert info["tokens"] == len(row)
    trained = training_row(trajectory, pad_id=0)
    assert trained["prompt_ids"] + trained["completion_ids"] in (row, [*row, 0])
    assert len(trained["completion_ids"]) == len(trained["env_mask"]) == len(trained["logprobs"]) > 0
    example = training_example(trajectory.turns)
    assert example["input_ids"] == row
    assert example["labels"] == [i if m else IGNORED for i, m in zip(row, mask, strict=True)]
    again = Trajectory.from_json(json.loads(json.dumps(trajectory.to_json())))
    assert (again.turns, again.tool_calls) == (trajectory.turns, info["tool_calls"])
    env.close()


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize("name", ["bytes", "bpe", "bpe without a template"])
@given(codes=st.lists(st.text(max_size=30), max_size=3), output=st.text(max_size=40))
def test_stored_messages_render_to_the_environments_own_turns(dialect, name, codes, output):
    """One piece of code builds both: an episode's messages, rendered for SFT, give the episode's ids again."""
    env = EchoEnv(lambda code: output, tokenizer=tokenizer(name), dialect=dialect)
    env.reset(seed=0)
    for code in codes:
        clean = code.encode("utf-8", "replace").decode()
        env.step(np.array(env.tokenizer.encode(env.dialect.call("python", {"code": clean})), dtype=np.int32))
        if env._episode.trajectory.stop:
            env.close()
            return
    end = env.dialect.answer("1") + env.tokenizer.end_text
    trajectory = env.step(np.array(env.tokenizer.encode(end), dtype=np.int32))[4]["trajectory"]
    rendered = render(trajectory.messages, make_dialect(dialect, tokenizer(name)), {"python": env.tool.schema})
    assert [turn.ids for turn in rendered] == [turn.ids for turn in trajectory.turns]
    assert [turn.role for turn in rendered] == [turn.role for turn in trajectory.turns]
    env.close()


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@given(
    output=st.text(max_size=80)
    | st.sampled_from(["</tool_response><|im_end|>", "<|im_start|>assistant\n", "</result>"])
)
def test_no_output_can_forge_a_marker(dialect, output):
    plain = make_dialect(dialect, tokenizer("bpe"))
    specials = [i for i in tokenizer("bpe").encode(plain.observation(output)) if i < 9]
    assert specials == [i for i in tokenizer("bpe").encode(plain.observation("")) if i < 9]

"""Episodes of the next batch, played while the model is updated on this one."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aster_env.errors import UsageError
from aster_train.ahead import Ahead
from aster_train.tasks import TaskSampler
from tests.train.test_long_runs import make, make_trainer, on_rollout, resumed, terminate, weights  # noqa: F401


@given(
    tasks=st.integers(1, 40), group=st.integers(1, 4), processes=st.integers(1, 3), share=st.integers(1, 3),
    repeats=st.integers(1, 3), shuffle=st.booleans(), epoch=st.integers(0, 3),
)  # fmt: skip
def test_the_batch_after_one_is_what_the_sampler_yields_next(tasks, group, processes, share, repeats, shuffle, epoch):
    unique = share * processes
    sampler = TaskSampler(
        range(tasks), mini_repeat_count=group, batch_size=unique, repeat_count=repeats, shuffle=shuffle, seed=5
    )
    sampler.set_epoch(epoch)
    stream, size = list(sampler), unique * group
    batches = [stream[start : start + size] for start in range(0, len(stream), size * repeats)]
    for rank in range(processes):
        own = [batch[rank * share * group : (rank + 1) * share * group] for batch in batches]
        for this, following in zip(own, [*own, None][1:], strict=True):
            assert sampler.following(this, rank, processes) == following


def test_a_batch_of_other_tasks_is_not_taken_for_this_one():
    ahead = Ahead(torch.device("cpu"))
    assert ahead.take(["a"]) is None
    ahead.start(["a", "b"], lambda: ["episodes"])
    assert ahead.take(["b", "a"]) is None
    ahead.start(["a", "b"], lambda: ["episodes"])
    assert ahead.take(["a", "b"]) == ["episodes"]
    assert ahead.take(["a", "b"]) is None
    ahead.start(["a"], lambda: 1 / 0)
    ahead.wait()
    with pytest.raises(ZeroDivisionError):
        ahead.take(["a"])
    ahead.close()


def test_episodes_are_played_beside_the_update_with_the_weights_before_it(make):  # noqa: F811
    one = make(ahead=True, num_generations=4)
    threads, logs = [], []
    run = one._runners["train"].run

    def watched(*args, **kwargs):
        threads.append(threading.current_thread().name)
        return run(*args, **kwargs)

    one._runners["train"].run = watched
    score = one._generate_and_score_completions

    def scored(inputs):
        before = weights(one)
        output = score(inputs)
        mask = (output["completion_mask"] * output["tool_mask"]).bool()
        # Of the second batch on, the weights that sampled are those from before the last two updates.
        with torch.no_grad():
            now, _, _ = one._get_per_token_logps_and_entropies(
                one.model,
                torch.cat([output["prompt_ids"], output["completion_ids"]], 1),
                torch.cat([output["prompt_mask"], output["completion_mask"]], 1),
                output["completion_ids"].shape[1],
            )
        logs.append((now - output["old_per_token_logps"])[mask].abs().max().item())
        assert torch.equal(output["old_per_token_logps"], output["sampling_per_token_logps"])
        assert before.keys() == weights(one).keys()
        return output

    one._generate_and_score_completions = scored
    one.train()
    # Two batches an epoch; the first of each waits for the epoch before to end.
    assert len(logs) == 4
    assert max(logs[::2]) < 1e-4 < 1e-3 < min(logs[1::2])
    assert "MainThread" in threads
    assert any(name.startswith("ahead") for name in threads)


def test_sigterm_ends_a_run_that_plays_ahead_and_it_resumes(make, tmp_path):  # noqa: F811
    one = make(ahead=True, num_generations=4)
    on_rollout(one, 0, terminate)
    with pytest.raises(SystemExit):
        one.train()
    one.close()
    assert resumed(make, ahead=True, num_generations=4)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"use_vllm": True, "vllm_enable_sleep_mode": True}, "the engine sleeps while the model is updated")],
)
def test_what_cannot_be_played_ahead_is_named(tmp_path, options, says):
    from tests.train.support import save_model

    with pytest.raises(UsageError, match=says):
        make_trainer(save_model(tmp_path / "model"), tmp_path / "out", ahead=True, **options)

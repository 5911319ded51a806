"""Episodes of the next batch, played while the model is updated on this one."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from aster_env.errors import UsageError
from aster_train.ahead import Ahead
from aster_train.checkpoints import resume_from
from aster_train.tasks import Epochs, TaskSampler
from tests.train.test_long_runs import make, make_trainer, terminate, weights  # noqa: F401


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


def test_an_epoch_that_begins_within_a_resumed_run_has_its_own_order():
    sampler = TaskSampler(range(9), mini_repeat_count=1, batch_size=3, seed=5)
    orders = {}
    for epoch in (0, 1, 1.5, 2):
        Epochs(lambda: sampler).on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
        orders[epoch] = list(sampler)
    assert orders[1] == orders[1.5]
    assert len({tuple(order) for order in orders.values()}) == 3
    fresh = TaskSampler(range(9), mini_repeat_count=1, batch_size=3, seed=5)
    fresh.set_epoch(2)
    assert list(fresh) == orders[2]


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


def logprobs(folder, parameters, output):
    """Return the log-probabilities of a batch's sampled tokens under these weights, computed apart from the trainer."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.load_state_dict(parameters, strict=False)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, position_ids=positions).logits.log_softmax(-1)
    taken = logits[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    return taken[:, -output["completion_ids"].shape[1] :]


def test_episodes_are_sampled_beside_the_update_from_the_weights_before_it(make, tmp_path):  # noqa: F811
    one = make(ahead=True, num_generations=4)
    threads, began, batches = [], [], []
    run, score = one._runners["train"].run, one._generate_and_score_completions

    def watched(*args, **kwargs):
        threads.append(threading.current_thread().name)
        return run(*args, **kwargs)

    def scored(inputs):
        began.append(weights(one))
        batches.append(score(inputs))
        return batches[-1]

    one._runners["train"].run, one._generate_and_score_completions = watched, scored
    one.train()
    # Two batches an epoch: the first waits for the epoch before to end, the second is played beside its updates.
    assert [name.partition("_")[0] for name in threads] == ["MainThread", "ahead"] * 2
    for n, output in enumerate(batches):
        sampled, mask = output["sampling_per_token_logps"], (output["completion_mask"] * output["tool_mask"]).bool()
        before, now = (
            (logprobs(tmp_path / "model", parameters, output) - sampled)[mask].abs().max().item()
            for parameters in (began[n - n % 2], began[n])
        )
        assert before < 1e-4
        assert now < 1e-4 if n % 2 == 0 else now > 1e-2
        assert torch.equal(output["old_per_token_logps"], sampled)


def test_sigterm_gives_up_what_is_played_ahead_and_the_run_resumes(make):  # noqa: F811
    one, interrupted, after = make(ahead=True, num_generations=4), [], []
    generate = one.policy.generate

    async def watched(request):
        after.extend(interrupted)
        if threading.current_thread().name.startswith("ahead") and not interrupted:
            interrupted.append(one.state.global_step)
            terminate()
        return await generate(request)

    one.policy.generate = watched
    with pytest.raises(SystemExit):
        one.train()
    one.close()
    (step,) = interrupted
    # Of a batch of eight, played one by one, what had begun is given up and nothing begins after it.
    assert len(after) <= 1
    assert one.state.global_step in (step, step + 2)
    two = make(ahead=True, num_generations=4)
    two.train(resume_from_checkpoint=resume_from(two.args.output_dir))
    assert two.state.global_step == 8
    rows = [row for row in two.state.log_history if row.get("time/rollout")]
    assert len({row["step"] for row in rows}) == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [({"use_vllm": True, "vllm_enable_sleep_mode": True}, "the engine sleeps while the model is updated")],
)
def test_what_cannot_be_played_ahead_is_named(tmp_path, options, says):
    from tests.train.support import save_model

    with pytest.raises(UsageError, match=says):
        make_trainer(save_model(tmp_path / "model"), tmp_path / "out", ahead=True, **options)

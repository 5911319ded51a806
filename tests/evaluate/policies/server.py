"""An OpenAI-compatible server on this machine that follows a script, and breaks as servers do."""

from __future__ import annotations

import asyncio
import json

from aster_env.evaluate.policies import open_policy
from aster_env.making import make_envs
from aster_env.rollout import play
from aster_env.tokenizers import ByteTokenizer
from tests.scripted_http import ScriptedServer, http

USAGE = {"prompt_tokens": 100, "completion_tokens": 10}


def call(name="python", arguments=None, name_of_call="c1"):
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {"code": "print(6 * 7)"})
    return {"id": name_of_call, "type": "function", "function": {"name": name, "arguments": text}}


def says(content=None, *calls, finish=None, usage=USAGE, **more):
    message = {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {}), **more}
    choice = {"index": 0, "message": message, "finish_reason": finish or ("tool_calls" if calls else "stop")}
    return http(200, {"choices": [choice], **({"usage": usage} if usage else {})})


def answers_with(value):
    """A model that calls python once and then answers with what the tool printed."""

    def reply(body):
        if body["messages"][-1]["role"] == "user":
            return says("Let me compute.", call(arguments={"code": f"print({value!r})"}))
        return says(f"So it is \\boxed{{{body['messages'][-1]['content'].strip()}}}.", usage=USAGE)

    return reply


class Server(ScriptedServer):
    """Answers the POSTs in turn with ``replies``, all after them with the last, and GETs with its models."""

    def __init__(self, *replies, models=("m",)):
        super().__init__(*replies)
        self.models, self.posts = models, []

    def answer(self, head, body):
        if head.startswith("GET"):
            rows = self.models
            return rows if isinstance(rows, bytes) else http(200, {"data": [_row(m) for m in rows]})
        self.posts.append(json.loads(body))
        reply = self.replies[min(len(self.posts), len(self.replies)) - 1]
        return reply(self.posts[-1]) if callable(reply) else reply


def _row(model):
    return model if isinstance(model, dict) else {"id": model, "object": "model"}


class SamplingServer(Server):
    """Completions of ids as vLLM gives them: samples the ids of ``script(prompt text, request number)``."""

    def __init__(self, script, models=({"id": "m", "max_model_len": 100_000},), change=lambda choice: choice):
        super().__init__(self._reply, models=models)
        self.script, self.change, self.sampled, self.tokenizer = script, change, [], ByteTokenizer()

    def _reply(self, body):
        said = self.script(self.tokenizer.decode(body["prompt"]), len(self.posts) - 1)
        ids = [*said] if not isinstance(said, str) else self.tokenizer.encode(said)
        cut = len(ids) > body["max_tokens"]
        ids = ids[: body["max_tokens"]]
        self.sampled.append(ids)
        choice = {"index": 0, "text": self.tokenizer.decode(ids), "finish_reason": "length" if cut else "stop"}
        choice |= {"token_ids": ids, "prompt_token_ids": body["prompt"]}
        if body.get("logprobs") is not None:
            choice["logprobs"] = {"tokens": [f"token_id:{i}" for i in ids], "token_logprobs": [-0.25 for _ in ids]}
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(ids)}
        return http(200, {"choices": [self.change(choice)], "usage": usage})


async def episodes(spec, sampling, make=None, count=1, tasks=None, max_seconds=None, **env_kwargs):
    """Open a policy, play ``count`` tasks at once, close all; return the trajectories and what was described."""
    opened = await open_policy(spec, sampling)
    try:
        kwargs = {"tokenizer": opened.tokenizer, **env_kwargs}
        envs = [make(**kwargs) for _ in range(count)] if make else make_envs("ASTER/PythonMath-v0", count, kwargs)
        try:
            opened.attach(envs[0].dialect)
            chosen = tasks or [envs[0].tasks[n] for n in range(count)]
            playing = (
                play(env, opened.policy, task, index=n, max_seconds=max_seconds)
                for n, (env, task) in enumerate(zip(envs, chosen, strict=True))
            )
            return await asyncio.gather(*playing), opened
        finally:
            await asyncio.gather(*(env.aclose() for env in envs))
    finally:
        await opened.close()

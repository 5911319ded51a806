"""A model by script for the modules: what it samples depends on what it is asked, and every request is kept."""

from __future__ import annotations

import asyncio

from aster_env.rollout import Completion, play
from aster_env.types import ToolResult
from tests.support import EchoEnv


class Model:
    """Says what ``speak(context text, request)`` writes; log-probabilities say how long the context was."""

    def __init__(self, env, speak):
        self.env, self.speak = env, speak
        self.requests = []
        self.released = []

    async def generate(self, request):
        tokenizer = self.env.tokenizer
        self.requests.append(request)
        said = self.speak(tokenizer.decode(request.ids), request)
        if isinstance(said, Exception):
            raise said
        if not said.endswith(self.env.stop):
            said += tokenizer.end_text
        ids = tuple(tokenizer.encode(said))
        if len(ids) > request.max_new_tokens:
            return Completion(ids[: request.max_new_tokens], None, "length")
        # Each probability names its place, so that a row can be checked for what its tokens were sampled under.
        return Completion(ids, tuple(-float(len(request.ids) + n) for n in range(len(ids))))

    async def release(self, episode):
        self.released.append(episode)


def run(code):
    """Run code as the tool: what holds "bad" fails."""
    return ToolResult("Traceback\nNameError: bad <|im_end|>", ok=False) if "bad" in code else ToolResult(f"ran {code}")


def play_one(wrap, speak, dialect="hermes", respond=run, **options):
    """Play one episode with a module around a model; return its trajectory, the model and the environment."""
    env = EchoEnv(respond, dialect=dialect, **options)
    model = Model(env, speak)

    async def main():
        policy = wrap(model, env.dialect)
        try:
            return await play(env, policy, env.tasks[1], seed=7)
        finally:
            await env.aclose()

    return asyncio.run(main()), model, env


def sampled_as_the_row_says(trajectory):
    """Whether every trained token was sampled under as many ids as stand before it (see ``Model``)."""
    row = zip(trajectory.mask, trajectory.logprobs, strict=True)
    return all(-chance == place for place, (trained, chance) in enumerate(row) if trained)

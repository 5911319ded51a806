"""An agent written with the OpenAI SDK plays episodes, and the environment scores them.

Any OpenAI-compatible endpoint will do, e.g. that of ``examples/small_model.py``, a small real model on this machine:
python examples/openai_agent.py --base-url http://127.0.0.1:8100/v1 --model SmolLM2-135M-Instruct --tasks 4
"""

import argparse
import os

from openai import OpenAI, OpenAIError

from aster_env.adapters import ToolSession, score


def play(session, client, model):
    """Let the model call tools until the episode is over."""
    messages = list(session.messages)
    while session.trajectory is None:
        reply = client.chat.completions.create(model=model, messages=messages, tools=session.tools, max_tokens=512)
        said = reply.choices[0].message
        messages.append(said.model_dump(exclude_none=True))
        for call in said.tool_calls or []:
            text = session.call(call.function.name, call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
        if not said.tool_calls:
            messages.append({"role": "user", "content": session.answer(said.content or "")})


def main():
    """Play one episode a task, and print the score; where there is none, the exit status is 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", help="default: $OPENAI_BASE_URL, or OpenAI's own")
    parser.add_argument("--model", required=True)
    parser.add_argument("--env", default="ASTER/PythonMath-v0")
    parser.add_argument("--tasks", type=int, default=4, help="how many")
    args = parser.parse_args()
    client = OpenAI(base_url=args.base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    with ToolSession(args.env) as session:
        scored = score(lambda s: play(s, client, args.model), session, session.tasks[: args.tasks], (OpenAIError,))
    print(scored)
    return 0 if scored.rewards else 1


if __name__ == "__main__":
    raise SystemExit(main())

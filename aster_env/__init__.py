"""aster: tool-use environments for language-model agents.

Importing this package registers the environments with Gymnasium and does nothing else.
"""

from __future__ import annotations

import gymnasium as gym

__version__ = "0.1.0"

gym.register(
    id="ASTER/PythonMath-v0",
    entry_point="aster_env.envs.python_math.env:PythonMathEnv",
    vector_entry_point="aster_env.envs.python_math.env:make_vec",
    # The checker samples random ids as a first action; the environment checks its actions itself.
    disable_env_checker=True,
)

gym.register(
    id="ASTER/WikiQA-v0",
    entry_point="aster_env.envs.wiki_qa.env:WikiQAEnv",
    vector_entry_point="aster_env.envs.wiki_qa.env:make_vec",
    disable_env_checker=True,
)

gym.register(
    id="ASTER/WebWalker-v0",
    entry_point="aster_env.envs.web_walker.env:WebWalkerEnv",
    vector_entry_point="aster_env.envs.web_walker.env:make_vec",
    disable_env_checker=True,
)

gym.register(
    id="ASTER/MultiTool-v0",
    entry_point="aster_env.envs.multi_tool.env:MultiToolEnv",
    vector_entry_point="aster_env.envs.multi_tool.env:make_vec",
    disable_env_checker=True,
)

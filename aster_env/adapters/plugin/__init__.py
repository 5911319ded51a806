"""The plug-in by which verifiers finds this gym (``vf-eval aster-gym``); see ``aster_env.adapters``."""

from aster_env.adapters.verifiers_taskset import AsterEnv, AsterHarness, AsterTaskset, load_environment

__all__ = ["AsterEnv", "AsterHarness", "AsterTaskset", "load_environment"]

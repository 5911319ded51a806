"""Imports what TRL imports, quietly: where vLLM is installed, that is vLLM with warnings of its own."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import trl.trainer.grpo_trainer  # noqa: F401

"""The trainer: GRPO and SFT of language models that use the tools of ``aster_env``'s environments."""

"""ASTER/WikiQA-v0 over OpenEnv."""

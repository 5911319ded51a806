"""ASTER/WebWalker-v0 over OpenEnv."""

"""ASTER/MultiTool-v0 over OpenEnv."""

"""ASTER/MultiTool-v0: Python and search in one episode."""

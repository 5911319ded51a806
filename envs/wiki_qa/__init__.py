"""ASTER/WikiQA-v0: questions answered by searching an encyclopedia."""

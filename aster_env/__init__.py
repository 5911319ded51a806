"""aster: tool-use environments for language-model agents."""

"""ASTER/WebWalker-v0: questions answered by walking a web site, or the web."""

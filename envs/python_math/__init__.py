"""ASTER/PythonMath-v0."""

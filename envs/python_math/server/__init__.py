"""ASTER/PythonMath-v0 over OpenEnv."""

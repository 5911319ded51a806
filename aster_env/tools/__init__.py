"""Tools a model can call."""

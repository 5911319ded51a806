"""The concrete environments, one folder each."""

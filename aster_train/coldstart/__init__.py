"""Data of a cold start: what others published, in the form that this trainer reads."""

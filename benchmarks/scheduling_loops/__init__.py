"""The two loops of ``benchmarks/scheduling.py``, this trainer's and TRL's, and what they share."""

"""Policies that need torch: language models that play the assistant."""

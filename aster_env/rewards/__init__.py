"""Rewards: how finished episodes are scored."""

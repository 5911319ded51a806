"""OpenEnv serving under load and faults."""

"""What a training configuration needs in memory, on paper."""

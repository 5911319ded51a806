"""The published recipes: which there are, what each would do here, and each in small."""

"""The embedded model: its tokenizer, the expert and the cold start that teach it, and ``make demo``."""

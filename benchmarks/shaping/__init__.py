"""Does shaping do what it says? A small model, trained with and without, several seeds."""

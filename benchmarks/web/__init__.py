"""The web tools: many walkers over the generated site, and how well pages are made to text."""

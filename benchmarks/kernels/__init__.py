"""Python sessions side by side: aster's pool, stock ipykernel, two peers' tools, and a bare pipe as the floor."""

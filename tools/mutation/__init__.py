"""Mutation testing of contracts/: what `tools/mutate.py` is made of."""

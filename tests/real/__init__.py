"""Keyhole in front of real model servers from PyPI, with a tiny model that the test makes.

The servers run in the engine's reference environment (`make test-reference` sets it up), Keyhole
in its own. Tried and left out: llama-cpp-python, which PyPI has no wheel of (November 2026).
"""

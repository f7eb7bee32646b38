"""The oracles on real servers, sound and damaged."""

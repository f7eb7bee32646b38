"""The catalogue of disasters."""

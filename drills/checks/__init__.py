"""The oracles V1 to V6 of a restored server, each with its negative control (V9)."""

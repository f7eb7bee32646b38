"""Fixtures that all tests share, by the module that owns them."""

pytest_plugins = [
    "tests.real.postgres",
    "tests.real.rgw",
]

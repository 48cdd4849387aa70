"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import settings

# fixed seeds, and no clock: the machines that run this are shared
settings.register_profile("steady", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("steady")

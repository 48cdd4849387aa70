"""The version, which the newest entry of the changelog and a release's tag name as well."""

__version__ = "0.1.0"

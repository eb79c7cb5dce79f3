"""Fixtures of published files."""

from tests.helpers.published_files import cache, publish

__all__ = ['cache', 'publish']

"""Widgets of the module's panel and their controllers."""

"""Loaders of suites: published files, from a local copy or the hub, to tasks."""

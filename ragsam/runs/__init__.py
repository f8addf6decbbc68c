"""Runs and bundles: options, templates, configs read as data, weights."""

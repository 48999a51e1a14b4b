"""Turns a checkpoint into an endpoint and a page."""

"""Measures what compression and serving claim; every row says when, where and with what."""

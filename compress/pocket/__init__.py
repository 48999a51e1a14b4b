"""The pocket model: a small speech translator that is rebuilt from its recipe, and shipped."""

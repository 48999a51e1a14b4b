"""Live speech: audio in while somebody speaks, text out as soon as it is known."""

"""Who asks the server, for what, and the server itself in a process of its own."""

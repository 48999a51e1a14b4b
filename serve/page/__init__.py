"""The page at `/`: speech in, text appearing as it is generated.  A client of the HTTP API, like any other."""

"""From one container to a fleet; README.md says how."""

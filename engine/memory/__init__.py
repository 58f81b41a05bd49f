"""Memory that we own: arenas, the registry of every byte, and what the process really holds."""

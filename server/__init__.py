"""FlexQuant: server."""

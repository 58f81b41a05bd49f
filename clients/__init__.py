"""FlexQuant: clients."""

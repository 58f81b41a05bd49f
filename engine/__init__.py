"""FlexQuant: engine."""

"""FlexQuant: ensemble_builder."""

"""Any-Precision as the builder's second method: one set of codes whose first bits are the codes of every lower width."""

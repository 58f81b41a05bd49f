"""Any-Precision as the builder's second method: codes whose first bits are those of every lower width."""

"""The report of one ensemble: what its sequence is worth, beside other orders of the same stores."""

"""EXL2: how a quantized linear layer is stored, how it lies in memory, and what its weights are."""

"""What building an ensemble of a model of full size costs: minutes, memory, evaluations, and whether estimates hold."""

"""The control law in closed loop with a simulated machine."""

"""A picture of one live resize: another program takes memory and leaves, and an answer goes on."""

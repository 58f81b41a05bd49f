"""Checkpoints from the Hugging Face Hub, kept in the cache that its own library keeps."""

"""The OpenAPI document: what the daemon answers, apart from the routes that answer it."""

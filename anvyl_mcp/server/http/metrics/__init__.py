"""The `/metrics` endpoint for Prometheus."""

"""The `/agent/*` HTTP endpoints."""

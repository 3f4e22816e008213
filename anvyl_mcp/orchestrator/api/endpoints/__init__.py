"""Endpoints of the agent API, one module per subject. All endpoints declared in this package are served."""

"""The composition root: connects server, peers and orchestrator for one process."""

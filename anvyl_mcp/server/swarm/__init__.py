"""Docker Swarm: this engine's part in it, its nodes and services, and how a host joins."""

"""Access to the Docker engine: sockets, API versions, object lookup, errors, statistics."""

"""The Docker engine behind one client: sockets, versions, lookup, errors, statistics."""

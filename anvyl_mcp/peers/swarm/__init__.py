"""Form a Swarm of paired hosts, and leave it."""

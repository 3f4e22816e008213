"""What image registries have: the client, log-ins, a cache of answers, facts about images."""

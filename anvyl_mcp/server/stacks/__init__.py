"""Docker Compose projects on this host: which there are, their files, deployed versions and changes."""

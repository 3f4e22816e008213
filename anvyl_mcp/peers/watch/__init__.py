"""Health checks, the watcher and its notifiers."""

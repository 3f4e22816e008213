"""The path of every tool call: dispatch, gate, idempotency, locks, journal."""

"""`policy.toml` and the guardrails."""

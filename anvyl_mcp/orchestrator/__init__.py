"""What you said becomes tool calls: the agent, its models, and the rules that need no model."""

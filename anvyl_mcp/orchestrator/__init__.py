"""What you said becomes tool calls."""

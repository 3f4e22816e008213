"""Model servers and what they really send."""

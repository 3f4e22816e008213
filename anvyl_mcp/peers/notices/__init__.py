"""Notices for people: channels, quiet hours, what is held back, and delivery."""

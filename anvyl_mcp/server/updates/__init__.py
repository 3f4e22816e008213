"""Newer images for the containers of this host, and updates to them with a way back."""

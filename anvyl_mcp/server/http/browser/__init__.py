"""The page in a browser: its files, and the sessions of browsers."""

"""What happened on this host and how it was used: recorded while serving, and queried by the history tools."""

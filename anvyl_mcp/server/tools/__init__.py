"""Tools by toolset, one file each."""

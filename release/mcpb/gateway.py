"""Starts `anvyl-mcp gateway`: all paired hosts as one MCP server, over stdio."""

import sys

from anvyl_mcp.cli.programs.host import main

sys.argv[1:] = ["gateway"]
main()

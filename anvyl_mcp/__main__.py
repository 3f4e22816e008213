"""`python -m anvyl_mcp` is `anvyl`."""

from anvyl_mcp.cli.operator import main

main()

"""What every proposed call passes: names, hosts, consent."""

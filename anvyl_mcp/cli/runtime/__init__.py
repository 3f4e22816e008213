"""What commands share: running, output, approval, live results."""

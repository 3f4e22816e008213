"""Words and phrases of English questions."""

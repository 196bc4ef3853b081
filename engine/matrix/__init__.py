"""A matrix: attacks x defenses x seeds x defense sizes as runs, and one table of what came of them."""

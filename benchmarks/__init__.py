"""Programs that measure: each prints a JSON object as its last line."""

"""Data sets: digits, folders, arrays, generated."""

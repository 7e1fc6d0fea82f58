"""Pure functions over arrays and trees."""

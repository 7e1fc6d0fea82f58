"""A page that classifies pictures in the browser, from the .hq file itself."""

"""A server of one file over HTTP; see docs/serve.md."""

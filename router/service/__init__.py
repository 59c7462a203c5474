"""The HTTP service around a loaded Router: wire schema, strict bodies, keys, settings, application and server."""

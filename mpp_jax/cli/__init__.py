"""The command line: `app` declares it, `stages` and `queries` do the work."""

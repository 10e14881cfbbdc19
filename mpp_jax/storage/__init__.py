"""What stays on disk: encodings, and bundles of arrays with a record (codebooks, models)."""

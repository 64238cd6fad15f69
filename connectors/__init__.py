"""One outside system each: files and local store."""

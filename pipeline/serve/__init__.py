"""Cases and snapshots in, pages over HTTP for people out."""

"""The results of a run in, one page for people out."""

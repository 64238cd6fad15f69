"""Test sets and representations of a signal in, how well each tells machines apart out."""

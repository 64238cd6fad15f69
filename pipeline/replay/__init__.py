"""Recordings in; live signals on Kafka, each once and at its time, out."""

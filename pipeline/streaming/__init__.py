"""Messages of Kafka in; results stored, state kept, and only then acknowledgements, out."""

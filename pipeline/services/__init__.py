"""What people do to Kafka and InfluxDB beside the stream: set up, watch, rewind, ask, back up."""

"""Signal encoders: networks, features, engines and checkpoints."""

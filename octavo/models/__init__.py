"""Model families as functions from a config to a spec, and the decoder that runs any spec."""

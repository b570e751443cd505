"""The parts of a model, built from specs: plain classes whose calls cost one frame."""

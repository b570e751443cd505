"""One device: its rows, its step inputs, its memory, its runner and the whole of sampling."""

"""Tool calls out of an answer's text: one incremental parser for each convention that models were trained on."""

"""What is true on each device."""

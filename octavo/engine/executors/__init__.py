"""How the engine core reaches the devices that compute: one Executor, several ways."""

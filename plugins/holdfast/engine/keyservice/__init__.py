"""Keys that never leave a cloud's key service: how the three services are asked. What is asked is the callers' part."""

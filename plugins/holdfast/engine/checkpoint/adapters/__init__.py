"""How a framework's objects become a training state and back; each module imports its framework lazily."""

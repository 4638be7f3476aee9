"""What standing by costs, what drills cost, and advice that names the line it came from."""

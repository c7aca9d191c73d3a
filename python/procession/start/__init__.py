"""How a child comes to run, by each start method: its parent's side, and its own."""

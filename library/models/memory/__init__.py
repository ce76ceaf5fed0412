"""How weights are kept in memory, and how memory is counted."""

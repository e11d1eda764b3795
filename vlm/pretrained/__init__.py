"""Other people's weights: where they come from, what is loaded, and what is refused."""

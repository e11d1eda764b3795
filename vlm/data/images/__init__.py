"""Where images and regions are read from, and what is kept of them."""

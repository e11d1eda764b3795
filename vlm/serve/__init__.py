"""The server for programs, and what it shares with the demo: images, limits, requests, sockets."""

"""The demo: a page and an API that ask trained models about pictures."""

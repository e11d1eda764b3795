"""Reports of studies as Markdown and HTML."""

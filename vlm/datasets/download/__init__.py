"""Downloads: files whose content is known, fetched whole or not at all."""

"""Build the two images: the source that they are of, and buildx with its progress passed through."""

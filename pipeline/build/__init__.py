"""Build the two images: their source, and buildx with its progress passed through."""

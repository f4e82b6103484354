"""The library behind tasks.py: engine, base, image, release, agents. It imports no Invoke."""

__version__ = "0.1.0"

"""The library behind tasks.py: engine, base, image, release, agents. It imports no Invoke."""

"""What a container may ask of the host's Claude: pure functions that turn a request into what is run.

Rule of this package: nothing is passed on unchanged. Arguments are parsed with a table of known flags and written
again. Control messages are parsed and written again. The environment starts empty. Anything that no table lists is
refused with a sentence; nothing is guessed. Any function here can raise PolicyError.
"""

from bridge.policy.terms import Decision, PolicyError, Scope

__all__ = ["Decision", "PolicyError", "Scope"]

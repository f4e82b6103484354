"""What a container may ask of the host's Claude: pure functions from what it sent to what is run.

Rule of this package: nothing is passed on as it came. Arguments are parsed by a table of known flags and
written anew, control messages are parsed and written anew, the environment is made from nothing. What no
table knows is refused with a sentence; nothing is guessed.
"""

from bridge.policy.terms import Decision, PolicyError, Scope

__all__ = ["Decision", "PolicyError", "Scope"]

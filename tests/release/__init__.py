"""Publishing, against a real registry on loopback; `nox -s release_tests`."""

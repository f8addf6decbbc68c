"""Made patients, for the demo and for tests."""

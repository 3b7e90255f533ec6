"""The classroom: notebooks go out, come back, and are graded without trust in what they hold."""

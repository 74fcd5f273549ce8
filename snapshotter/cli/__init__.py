"""The command `modelpack`, for people and their scripts."""

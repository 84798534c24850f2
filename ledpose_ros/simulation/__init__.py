"""Simulated robot pairs in random rooms (MuJoCo; an extra)."""

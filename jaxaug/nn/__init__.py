"""Layers and blocks that networks share; cpu/: convolutions fast there."""

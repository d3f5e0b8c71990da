"""What is called from a shell; nothing imports these."""

"""What two rooms or more share."""

"""What several formats need to reach and read files."""

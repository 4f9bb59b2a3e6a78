"""What is to be done: bounded units with ids from their content."""

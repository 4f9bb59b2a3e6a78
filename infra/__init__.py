"""How this project is deployed, and how what it ships was made."""

"""A trained model for others: its licence, its card, its place on the Hugging Face Hub."""

"""What this project is about: which parts of a model matter, and taking the others out."""

"""The model that leaves: a folder that loads everywhere or refuses."""

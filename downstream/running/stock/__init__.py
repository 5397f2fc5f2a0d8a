"""What other people's recipes get of this suite, whatever their backbone."""

"""What single options of the command lines change in a config, each in a module of its own."""

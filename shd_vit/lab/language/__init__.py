"""Language models: how they are trained, evaluated and looked at."""

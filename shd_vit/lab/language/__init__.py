"""Language models: how they are evaluated and looked at."""

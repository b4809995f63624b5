"""A study: a grid of trainings and seeds, run to its end, with tables of means and differences."""

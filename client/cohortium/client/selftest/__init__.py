"""Whether private training is as private as it is said to be: tests of the engines themselves."""

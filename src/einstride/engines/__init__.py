"""Convolution by libraries of others that are optional. Nothing is imported before it is used."""

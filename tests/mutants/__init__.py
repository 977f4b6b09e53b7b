"""Faults made on purpose: each must fail a test."""

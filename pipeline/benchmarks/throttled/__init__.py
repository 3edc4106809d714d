"""Compares predicted with measured steps of processes behind throttled links. Imports what `pipeline.benchmarks`
imports."""

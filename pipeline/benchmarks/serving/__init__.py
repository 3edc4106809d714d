"""A server beside `generate`, and under many clients and faults."""

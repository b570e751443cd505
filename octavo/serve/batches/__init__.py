"""Batch work: files of requests, answered line by line, online with a queue that survives a crash, or offline."""
